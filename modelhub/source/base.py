"""The protocol every place that bytes come from fulfils."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class FileStat(NamedTuple):
    """What a file system says of a file: enough to notice, without reading, that its bytes were changed.

    Two equal values mean the same bytes under every file system that keeps modification times to the nanosecond
    or that gives a rewritten file a new inode; a difference only means that one has to look.
    """

    path: str
    size: int
    mtime_ns: int
    dev: int
    ino: int


class Source(Protocol):
    """A run of bytes that can be read at any offset; never written."""

    @property
    def name(self) -> str:
        """How people know it: the path or address as it was given."""

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only where the source ends."""

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled, fewer only where the source ends."""
