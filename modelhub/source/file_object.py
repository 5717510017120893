"""An open file of the caller's, or any object that reads like one, as a source."""

from __future__ import annotations

import os
from typing import BinaryIO

from modelhub.errors import ChangedDuringRead, SourceError
from modelhub.source.local import LocalSource
from modelhub.source.stream import spool

_LONGEST_STREAM = 64 << 30


class FileObjectSource:
    """What a seekable binary file object holds from its present position on, which is what a loader would read of it.

    The position is put back after each read, so that the caller can go on to load the object.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        try:
            self._start = file.tell()
            self.size = self._length()
            if not isinstance(file.read(0), bytes):
                raise TypeError("a file object that reads bytes is needed; this one reads text")
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        blocks = []
        length = max(0, min(length, self.size - offset))
        try:
            self._file.seek(self._start + offset)
            while length and (block := self._file.read(length)):
                blocks.append(block)
                length -= len(block)
            self._file.seek(self._start)
        except (OSError, ValueError, EOFError) as error:
            raise self._failed(error) from error
        return b"".join(blocks)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def check_unchanged(self) -> None:
        """Raise :class:`ChangedDuringRead` when the object is not as long as it was: all that can be told of it."""
        try:
            length = self._length()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        if length != self.size:
            raise ChangedDuringRead(f"{self.name}: it changed while it was read")

    def _length(self) -> int:
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(self._start)
        return max(0, end - self._start)

    def _failed(self, error: Exception) -> SourceError:
        return SourceError(f"{self.name}: reading failed: {error}", path=self.name)


def open_file_object(file: BinaryIO) -> FileObjectSource | LocalSource:
    """*file* from its present position on: read in place where it can seek, else copied to a temporary file.

    The copy takes what a stream holds; close the :class:`LocalSource` to be rid of it. Raises :class:`TypeError` for
    what is not a binary file object, :class:`SourceError` when it cannot be read.
    """
    if not callable(getattr(file, "read", None)):
        raise TypeError(f"neither a path nor a binary file object: {type(file).__name__}")
    name = getattr(file, "name", None)
    name = os.fsdecode(name) if isinstance(name, (str, bytes)) else "<file object>"
    try:
        in_place = callable(getattr(file, "seekable", None)) and file.seekable()
    except ValueError as error:
        raise SourceError(f"{name}: cannot be read: {error}", path=name) from error
    return FileObjectSource(file, name) if in_place else spool(name, file, _LONGEST_STREAM)
