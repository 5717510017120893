"""Writing past the page cache: whatever the file system makes of it, the bytes are the ones that were given."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.convert import direct as module
from modelhub.convert.direct import ALIGNMENT, Direct
from modelhub.convert.target import PartFile

NOISE = os.urandom(1 << 20)


def noise(start: int, size: int) -> bytes:
    """*size* bytes that tell where they belong."""
    start %= len(NOISE) // 2
    return (NOISE[start:] * (1 + size // (len(NOISE) - start)))[:size]


class Usual:
    """Writes to *path* in the usual way, and remembers where and how much."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[tuple[int, int]] = []

    def __call__(self, offset: int, data: memoryview) -> None:
        if data:
            self.written.append((offset, len(data)))
            with open(self.path, "r+b") as file:
                file.seek(offset)
                file.write(data)


def left_over(path: Path, *pieces: tuple[int, bytes]) -> list[tuple[int, int]]:
    """Which bytes of *pieces* were written to the existing *path* in the usual way: begin and size of each run."""
    usual = Usual(path)
    direct = Direct(str(path), usual)
    try:
        for offset, data in pieces:
            direct.write_at(offset, memoryview(data))
        direct.settle()
    finally:
        direct.close()
    return usual.written


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    if left_over(path, (0, bytes(ALIGNMENT))):
        pytest.skip("the file system of the test's folder is not written to directly")
    return path


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 700_000), min_size=1, max_size=12), st.booleans())
def test_pieces_of_any_size_lie_where_they_should(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], backwards: bool
) -> None:
    target = tmp_path_factory.mktemp("out") / "file"
    offsets = [sum(sizes[:n]) for n in range(len(sizes))]
    pieces = [(offset, noise(offset, size)) for offset, size in zip(offsets, sizes, strict=True)]
    with PartFile(str(target), sum(sizes)) as part:
        with ThreadPoolExecutor(3) as pool:
            order = reversed(pieces) if backwards else pieces
            list(pool.map(lambda piece: part.write_at(*piece, direct=True), order))
        part.settle()
        part.sync()
        part.commit(force=False)
    assert target.read_bytes() == b"".join(data for _, data in pieces)


def test_what_is_given_again_stays(prepared: Path) -> None:
    """Of bytes that are given twice in the same pieces the second are there, the ends that wait as well."""
    first, second = noise(3, 3 * ALIGNMENT), noise(4, 3 * ALIGNMENT)
    cuts = [(100, 5000), (5000, 9000), (9000, 12000)]
    left = left_over(prepared, *[(low, data[low:high]) for data in (first, second) for low, high in cuts])
    assert left == [(100, ALIGNMENT - 100), (8192, 12000 - 8192)]
    assert prepared.read_bytes()[100:12000] == second[100:12000]


def test_only_what_is_beyond_whole_pages_is_written_in_the_usual_way(prepared: Path) -> None:
    """What follows on what came before is gathered; ends that meet are one write."""
    data = noise(1, 4 * ALIGNMENT)
    pieces = [(100, data[100:5000]), (5000, data[5000:9000]), (9000, data[9000:])]
    assert left_over(prepared, *pieces) == [(100, ALIGNMENT - 100)]
    assert prepared.read_bytes()[100 : 4 * ALIGNMENT] == data[100:]
    pieces = [(ALIGNMENT, data[ALIGNMENT:9000]), (9001, data[9001:])]
    assert left_over(prepared, *pieces) == [(8192, 808), (9001, 3287)]
    pieces = [(9000, data[9000:]), (0, data[:9000])]
    assert left_over(prepared, *pieces) == [(8192, 4096)]
    assert prepared.read_bytes()[: 4 * ALIGNMENT] == data


def test_more_than_fits_in_the_memory_between(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do ends that wait take more than they may."""
    monkeypatch.setattr(module, "_GATHERED", 4 * ALIGNMENT)
    monkeypatch.setattr(module, "_MOST_LEFT", 1)
    data = noise(2, 11 * ALIGNMENT + 7)
    assert left_over(prepared, (1, data[1:]), (0, data[:1])) == [(1, ALIGNMENT - 1), (11 * ALIGNMENT, 7), (0, 1)]
    assert prepared.read_bytes()[: len(data)] == data


@pytest.mark.parametrize("failing", ["open", "device", "system"])
def test_where_it_cannot_be_all_is_written_in_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    if failing == "system":
        monkeypatch.setattr(module, "_FLAG", 0)
    elif failing == "device":
        monkeypatch.setattr(os, "major", lambda _device: 0)
    else:

        def refuse(*_: Any) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "open", refuse)
    assert left_over(path, (5, noise(3, 1 << 15))) == [(5, 1 << 15)]
    assert path.read_bytes()[5 : 5 + (1 << 15)] == noise(3, 1 << 15)


@pytest.mark.parametrize("after", [0, 1])
def test_a_file_system_that_refuses_in_the_end_is_written_through_the_cache(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real, calls = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) == after + 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, data, offset)

    monkeypatch.setattr(module, "_GATHERED", 1 << 17)
    target = prepared.parent / "target"
    data = noise(4, 1 << 18)
    with PartFile(str(target), len(data)) as part:
        monkeypatch.setattr(os, "pwrite", pwrite)
        part.write_at(0, data, direct=True)
        part.settle()
        part.commit(force=False)
    assert target.read_bytes() == data
    assert len(calls) == 3  # refused once, and then not tried again


def test_a_short_write_is_gone_on_with(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: ALIGNMENT + 512], offset))
    target = prepared.parent / "target"
    data = noise(5, 1 << 17)
    with PartFile(str(target), len(data)) as part:
        part.write_at(0, data, direct=True)
        part.settle()
        part.commit(force=False)
    assert target.read_bytes() == data


def test_a_full_disk_is_told(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    direct = Direct(str(prepared), Usual(prepared))
    direct.write_at(0, memoryview(bytes(ALIGNMENT)))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        direct.settle()
    direct.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans()), min_size=1, max_size=30), st.integers(0, 5000))
def test_what_is_made_in_its_room_lies_where_it_should(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, bool]], start: int
) -> None:
    """Beside what is given in the usual way, whole pages or parts of them, and at any place."""
    path = tmp_path_factory.mktemp("out") / "file"
    data = noise(start, start + sum(size for size, _ in sizes))
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GATHERED", 4096)
        direct = Direct(str(path), Usual(path))
        for size, made_there in sizes:
            piece = memoryview(data)[start : start + size]
            room = direct.room(start, size) if made_there else None
            if room is None:
                direct.write_at(start, piece)
            else:
                room[:] = piece
                direct.fill(size)
            start += size
        direct.settle()
        direct.close()
    assert path.read_bytes() == data


def test_there_is_room_for_no_more_than_is_gathered(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = Direct(str(prepared), Usual(prepared))
    monkeypatch.setattr(module, "_GATHERED", 4 * ALIGNMENT)
    assert direct.room(0, 4 * ALIGNMENT + 1) is None
    room = direct.room(5, 4 * ALIGNMENT)
    assert room is not None
    assert len(room) == 4 * ALIGNMENT
    direct.close()
