"""What is about to be moved, written down before it is.

The journal is a file in the library, hidden from walks: it goes with the disk that the library is on, and its paths are
relative, for that disk may be elsewhere when it is plugged in again. A line is one unit of moves as JSON. Only when the
moves of a line have reached the disk and the catalog has followed is the line taken away, so that whoever comes next
finds at most a few units of which it cannot be said how far they got.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from modelhub.convert.target import sync_folder, write_error
from modelhub.errors import Conflict
from modelhub.organising.moving import Stamp

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: two runs at once fail at names that are gone or taken, and lose nothing
    fcntl = None

NAME = ".modelhub-organise.journal"


class Step(NamedTuple):
    """What is moved from *source* to *target*, and its stamp before; *is_model* where the catalog has a place of it."""

    source: str
    target: str
    stamp: Stamp
    is_model: bool


class Journal:
    """The journal of the library *root*, held by one process at a time. A context manager; what is left when it is
    closed, other than by :meth:`clear`, is there for the next one.

    Raises :class:`Conflict` when another process holds it, and what writing can raise.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.path = os.path.join(root, NAME)
        self._fd = self._open()
        while not self._is_there():  # whoever held it took it away between its opening and its locking
            os.close(self._fd)
            self._fd = self._open()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise write_error(error, self.path) from error
        if fcntl is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise Conflict(f"{self._root}: another process is organising it") from error
        return fd

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.fstat(self._fd).st_size == 0:
            os.unlink(self.path)
        os.close(self._fd)

    def write(self, units: Iterable[Sequence[Step]]) -> None:
        """Have *units* on the disk."""
        lines = [json.dumps([self._line(step) for step in unit]) + "\n" for unit in units]
        try:
            os.lseek(self._fd, 0, os.SEEK_END)
            data = memoryview("".join(lines).encode("ascii"))
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
            sync_folder(self._root)
        except OSError as error:
            raise write_error(error, self.path) from error

    def clear(self) -> None:
        """Forget everything: it has been done, or will never be begun."""
        try:
            os.ftruncate(self._fd, 0)
            os.fsync(self._fd)
        except OSError as error:
            raise write_error(error, self.path) from error

    def read(self) -> list[list[Step]]:
        """The units that were written; what follows a line that is none was never begun."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        chunks = []
        while chunk := os.read(self._fd, 1 << 20):
            chunks.append(chunk)
        units = []
        for line in b"".join(chunks).split(b"\n")[:-1]:
            unit = self._unit(line)
            if unit is None:
                break
            units.append(unit)
        return units

    def _line(self, step: Step) -> list[Any]:
        return [os.path.relpath(step.source, self._root), os.path.relpath(step.target, self._root), *step[2:]]

    def _unit(self, line: bytes) -> list[Step] | None:
        try:
            return [
                Step(self._inside(source), self._inside(target), Stamp(int(size), int(mtime), int(ino), folder), model)
                for source, target, (size, mtime, ino, folder), model in json.loads(line)
            ]
        except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
            return None

    def _inside(self, path: object) -> str:
        """*path* in the library. A journal comes with a disk, and nobody knows who wrote it: no name leads outside."""
        if not isinstance(path, str) or not path or os.path.isabs(path) or "\0" in path:
            raise ValueError(path)
        if {"", ".", ".."} & set(path.replace("\\", "/").split("/") if os.sep == "\\" else path.split("/")):
            raise ValueError(path)
        os.fsencode(path)  # which raises ValueError for what can be no name
        return os.path.join(self._root, path)
