"""Bytes already in memory, such as a decompressed archive member, as a source."""

from __future__ import annotations


class BytesSource:
    """*data*, known to people as *name*."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.size = len(data)
        self._data = data

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        return self._data[offset : offset + max(0, length)]

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        data = self._data[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)
