"""Files on this machine, read by position."""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from modelhub.errors import AccessDenied, ChangedDuringRead, NotFound, SourceError
from modelhub.source.base import FileStat

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _file_stat(path: str, st: os.stat_result) -> FileStat:
    return FileStat(path, st.st_size, st.st_mtime_ns, st.st_dev, st.st_ino)


class LocalSource:
    """A regular file, opened once for reading. A context manager: leaving it closes the file."""

    def __init__(self, path: str, fd: int, st: os.stat_result) -> None:
        self.name = path
        self.stat = _file_stat(os.path.abspath(path), st)
        self.size = st.st_size
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, for system calls that copy between files."""
        return self._fd

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end of the file."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        try:
            data = _pread(self._fd, length, offset)
        except OSError:  # what is wrong is said below
            data = b""
        if len(data) == length:
            return data
        buffer = bytearray(length)
        got = self.readinto_at(offset, memoryview(buffer))
        return bytes(buffer) if got == length else bytes(buffer[:got])

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        filled = 0
        try:
            while filled < len(buffer):
                got = _pread_into(self._fd, buffer[filled:], offset + filled)
                if got == 0:
                    break
                filled += got
        except OSError as error:
            raise SourceError(f"{self.name}: reading failed: {error.strerror}") from error
        return filled

    def holds(self, start: int, runs: Iterable[tuple[int, int, bytes]]) -> bool:
        """Whether at each offset of *runs*, counted from *start*, as many bytes as said are those said: hundreds of
        single numbers, for which :meth:`read_at` would take longer than the system does."""
        read, fd = _pread, self._fd
        try:
            return all(read(fd, length, start + offset) == data for offset, length, data in runs)
        except OSError as error:
            raise SourceError(f"{self.name}: reading failed: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """Raise :class:`ChangedDuringRead` when the file, or what its path names, is not what was opened."""
        opened = _file_stat(self.stat.path, os.fstat(self._fd))
        try:
            named = _file_stat(self.stat.path, os.stat(self.stat.path))
        except OSError as error:
            raise ChangedDuringRead(f"{self.name}: it was moved or removed while it was read") from error
        if opened != self.stat or named != self.stat:
            raise ChangedDuringRead(f"{self.name}: it changed while it was read")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> LocalSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.close()


if hasattr(os, "preadv"):

    def _pread_into(fd: int, buffer: memoryview, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    _pread = os.pread

else:  # Windows, where a descriptor has one position for all threads
    import threading

    _reading = threading.Lock()

    def _pread_into(fd: int, buffer: memoryview, offset: int) -> int:
        with _reading:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _pread(fd: int, length: int, offset: int) -> bytes:
        with _reading:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, length)


def open_local(path: str | os.PathLike[str]) -> LocalSource:
    """Open the regular file *path* (symbolic links are followed).

    Raises :class:`NotFound`, :class:`AccessDenied`, or :class:`SourceError` for what is not a regular file: a FIFO
    or a device is never opened, so it cannot block.
    """
    name = os.fspath(path)
    try:
        st = os.stat(name)
        if not stat_module.S_ISREG(st.st_mode):
            raise SourceError(f"{name}: not a regular file")
        fd = os.open(name, os.O_RDONLY | _BINARY)
    except FileNotFoundError as error:
        raise NotFound(f"{name}: no such file") from error
    except PermissionError as error:
        raise AccessDenied(f"{name}: may not be read: permission denied") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{name}: cannot be opened: {reason}") from error
    return LocalSource(name, fd, os.fstat(fd))
