"""Bytes that are copied as they lie: by the system where it can, by reading and writing where it does no more."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub.convert import copying
from modelhub.convert.target import PartFile
from modelhub.errors import ChangedDuringRead
from modelhub.source import LocalSource, open_local

DATA = os.urandom(300_000)
START, NBYTES, OFFSET = 1_000, 200_001, 77
Kernel = Callable[[int, int, int, int, int], int]


def _copied(path: Path, nbytes: int = NBYTES) -> tuple[bytes, list[int]]:
    """What is in the written file where the bytes belong, and what was told."""
    told: list[int] = []
    path.write_bytes(DATA)
    with open_local(str(path)) as source, PartFile(str(path.with_name("out")), OFFSET + nbytes) as part:
        buffer = memoryview(bytearray(65_536))
        copying.copy(source, START, nbytes, part, OFFSET, told=told.append, buffer=buffer)
        return os.pread(part.fd, nbytes, OFFSET), told


def _short(source: int, target: int, count: int, start: int, offset: int) -> int:
    """A system that copies a little at a time."""
    return os.pwrite(target, os.pread(source, min(count, 30_001), start), offset)


def _then(end: Callable[[], int]) -> Kernel:
    """One that copies a little once, and then does what *end* does."""
    calls: list[int] = []

    def kernel(source: int, target: int, count: int, start: int, offset: int) -> int:
        calls.append(count)
        return _short(source, target, count, start, offset) if len(calls) == 1 else end()

    return kernel


def _refuse() -> int:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize("kernel", [_short, _then(_refuse), _then(lambda: 0), None])
def test_whatever_the_system_copies_the_bytes_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel | None
) -> None:
    """A system that stops early, refuses midway or cannot copy at all: the same bytes, and all of them told."""
    monkeypatch.setattr(copying, "_copy_file_range", kernel)
    written, told = _copied(tmp_path / "in")
    assert written == DATA[START : START + NBYTES]
    assert sum(told) == NBYTES
    assert len(told) > 1


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="this system copies nothing between files")
def test_the_system_copies_between_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it can, nothing goes through this process."""

    def read(self: LocalSource, offset: int, buffer: memoryview) -> int:
        raise AssertionError("read")

    monkeypatch.setattr(LocalSource, "readinto_at", read)
    assert _copied(tmp_path / "in") == (DATA[START : START + NBYTES], [NBYTES])


def test_a_source_that_ends_early_is_noticed(tmp_path: Path) -> None:
    """What should be there and is not is no copy."""
    with pytest.raises(ChangedDuringRead, match="became shorter"):
        _copied(tmp_path / "in", len(DATA))
