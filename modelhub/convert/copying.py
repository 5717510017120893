"""Copying bytes as they lie from a source into the file that is written: by the system, where it copies between files.

``copy_file_range`` (Linux, FreeBSD) spares the way through this process's memory, and the interpreter is free for other
threads all the while; a server copies on its own, and a file system that shares blocks may do so. Where it is not
there, refuses, or stops early, the bytes are read and written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from modelhub.convert.target import PartFile
from modelhub.errors import ChangedDuringRead
from modelhub.source import LocalSource, Source

_AT_ONCE = 1 << 26
"""Bytes that the system is asked to copy at a time; no signal is heard meanwhile."""

_copy_file_range = getattr(os, "copy_file_range", None)


def copy(
    source: Source,
    start: int,
    nbytes: int,
    part: PartFile,
    offset: int,
    *,
    told: Callable[[int], None],
    buffer: memoryview,
) -> None:
    """Write the *nbytes* of *source* from *start* on into *part* at *offset*, through *buffer* where that is needed.

    *told* is told bytes as they are written. Raises :class:`ChangedDuringRead` for a source that became shorter, what
    reading it raises, and ``OSError`` for what cannot be written.
    """
    done = 0
    for count in _copied(source, start, nbytes, part, offset):
        done += count
        told(count)
    while done < nbytes:
        block = buffer[: min(len(buffer), nbytes - done)]
        if source.readinto_at(start + done, block) != len(block):
            raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
        part.write_at(offset + done, block)
        done += len(block)
        told(len(block))


def _copied(source: Source, start: int, nbytes: int, part: PartFile, offset: int) -> Iterator[int]:
    """Bytes as the system copies them from one to the other, until all are there or it does no more."""
    if _copy_file_range is None or not isinstance(source, LocalSource):
        return
    done = 0
    while done < nbytes:
        wanted = min(_AT_ONCE, nbytes - done)
        try:
            count = _copy_file_range(source.fileno(), part.fd, wanted, start + done, offset + done)
        except OSError:  # whichever of both it is, reading and writing say what is wrong
            return
        if not count:
            return
        done += count
        yield count
