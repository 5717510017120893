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


def written_directly(path: Path, offset: int, data: bytes) -> int:
    """How many bytes of *data* are written directly to the existing *path* at *offset*."""
    direct = Direct(str(path))
    try:
        return direct.write_at(offset, memoryview(data))
    finally:
        direct.close()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    if not written_directly(path, 0, bytes(ALIGNMENT)):
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
        part.sync()
        part.commit(force=False)
    assert target.read_bytes() == b"".join(data for _, data in pieces)


def test_whole_multiples_are_written_and_the_rest_is_not(prepared: Path) -> None:
    data = noise(1, 3 * ALIGNMENT + 5)
    assert written_directly(prepared, ALIGNMENT, data) == 3 * ALIGNMENT
    held = prepared.read_bytes()
    assert held[: 4 * ALIGNMENT] == bytes(ALIGNMENT) + data[: 3 * ALIGNMENT]
    assert held[4 * ALIGNMENT :] == bytes(len(held) - 4 * ALIGNMENT)


def test_more_than_fits_in_the_memory_between(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOVED", 4 * ALIGNMENT)
    data = noise(2, 11 * ALIGNMENT)
    assert written_directly(prepared, 0, data) == len(data)
    assert prepared.read_bytes()[: len(data)] == data


@pytest.mark.parametrize("failing", ["open", "device", "system"])
def test_where_it_cannot_be_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
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
    assert written_directly(path, 0, noise(3, 1 << 15)) == 0
    assert path.read_bytes() == bytes(1 << 16)


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

    monkeypatch.setattr(module, "_MOVED", 1 << 17)
    target = prepared.parent / "target"
    data = noise(4, 1 << 18)
    with PartFile(str(target), len(data)) as part:
        monkeypatch.setattr(os, "pwrite", pwrite)
        part.write_at(0, data, direct=True)
        part.commit(force=False)
    assert target.read_bytes() == data
    assert len(calls) == after + 2  # refused once, then all that is left in one piece


def test_a_short_write_is_gone_on_with(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: ALIGNMENT + 512], offset))
    target = prepared.parent / "target"
    data = noise(5, 1 << 17)
    with PartFile(str(target), len(data)) as part:
        part.write_at(0, data, direct=True)
        part.commit(force=False)
    assert target.read_bytes() == data


def test_a_full_disk_is_told(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    direct = Direct(str(prepared))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        direct.write_at(0, memoryview(bytes(ALIGNMENT)))
    direct.close()
