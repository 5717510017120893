"""The folder being written: invisible under its name until it is whole.

A :class:`PartFolder` lies beside its target as ``.NAME.modelhub-PID-XXXXXXXX.parts``, is filled, and is renamed to the
target's name only then. Like a :class:`~modelhub.convert.target.PartFile` it is locked by its writer, and one whose
writer is gone is removed by the next conversion to the same target.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from types import TracebackType

from modelhub import termination
from modelhub.convert.target import fcntl, stem_of, sync_folder, write_error


class PartFolder:
    """The future folder *target* of *size* bytes, there at ``path`` while this context is entered.

    Leaving it without :meth:`commit` removes it and what was put into it.
    """

    def __init__(self, target: str, size: int) -> None:
        self.target = target
        self._parent, name = os.path.split(os.path.abspath(target))
        self._stem = stem_of(name)
        self.path = os.path.join(self._parent, f".{self._stem}.modelhub-{os.getpid()}-{os.urandom(4).hex()}.parts")
        self._size = size
        self._lock: int | None = None
        self._committed = False

    def __enter__(self) -> PartFolder:
        """Create it. Raises :class:`NoSpace` at once where its bytes do not fit, and as PartFile does."""
        _remove_abandoned(self._parent, self._stem)
        try:
            if hasattr(os, "statvfs"):
                free = os.statvfs(self._parent)
                if free.f_bavail * free.f_frsize < self._size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with termination.held():
                os.mkdir(self.path)
                self._lock = _locked(self.path)
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise write_error(error, self.target, self._size) from error
            raise
        return self

    def file(self, relative: str) -> str:
        """The path of the file *relative* (with ``/``) in it; its folder is made."""
        path = os.path.join(self.path, *relative.split("/"))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise write_error(error, self.target) from error
        return path

    def commit(self) -> None:
        """Give it the target's name, which is free or an empty folder's; then flush the folder around it.

        Raises :class:`WouldOverwrite` when something else took the name meanwhile.
        """
        try:
            for folder, _, _ in os.walk(self.path):
                sync_folder(folder)
            if os.name == "nt" and os.path.isdir(self.target):
                os.rmdir(self.target)
            os.rename(self.path, self.target)
            self._committed = True
            sync_folder(self._parent)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.ENOTDIR}:
                error = OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            raise write_error(error, self.target) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        if not self._committed:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: str) -> int | None:
    """A descriptor that holds the lock on the folder *path*; ``None`` where folders have none (Windows)."""
    if fcntl is None:
        return None
    fd = os.open(path, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _remove_abandoned(parent: str, stem: str) -> None:
    if fcntl is None:
        return
    ours = re.compile(re.escape(f".{stem}.modelhub-") + r"\d+-[0-9a-f]{8}\.parts", re.DOTALL)
    with suppress(OSError):
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            if not ours.fullmatch(name) or os.path.islink(path):
                continue
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(fd)
