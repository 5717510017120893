"""A stream, which can only be read once and forward, as a source."""

from __future__ import annotations

import os
from typing import Protocol

from modelhub.errors import LimitExceeded, SourceError
from modelhub.source.digest import CHUNK
from modelhub.source.local import LocalSource


class Readable(Protocol):
    """What gives its bytes once and in order, empty at the end, as a binary file does."""

    def read(self, size: int = ..., /) -> bytes: ...


class StreamSource(LocalSource):
    """All bytes of a stream, kept in a temporary file that has no name and goes when it is closed."""

    def check_unchanged(self) -> None:
        """Nothing else has access to the bytes."""


def spool(name: str, stream: Readable, limit: int) -> StreamSource:
    """Read *stream* to its end, at most *limit* bytes, in flat memory; *name* is how people know it.

    Raises :class:`LimitExceeded` for a longer one, :class:`SourceError` when it cannot be read or kept.
    """
    import tempfile

    try:
        with tempfile.TemporaryFile() as file:
            length = 0
            while data := _next_block(stream):
                length += len(data)
                if length > limit:
                    raise LimitExceeded(f"{name}: longer than the {limit} bytes that are read of a stream")
                file.write(data)
            file.flush()
            fd = os.dup(file.fileno())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{name}: cannot be read: {reason}", path=name) from error
    return StreamSource(name, fd, os.fstat(fd))


def _next_block(stream: Readable) -> bytes:
    data: bytes | None = stream.read(CHUNK)
    if data is None:
        raise OSError("it does not wait for its data")
    return data
