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

from modelhub.convert.target import fcntl, stem_of, sync_folder, write_error


class PartFolder:
    """The future folder *target*. Leaving it without :meth:`commit` removes it and what was put into it."""

    def __init__(self, target: str, size: int) -> None:
        """Create it. Raises :class:`NoSpace` at once where its *size* bytes do not fit, and as PartFile does."""
        self.target = target
        self._parent, name = os.path.split(os.path.abspath(target))
        self._committed = False
        stem = stem_of(name)
        _remove_abandoned(self._parent, stem)
        self.path = os.path.join(self._parent, f".{stem}.modelhub-{os.getpid()}-{os.urandom(4).hex()}.parts")
        try:
            if hasattr(os, "statvfs"):
                free = os.statvfs(self._parent)
                if free.f_bavail * free.f_frsize < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.mkdir(self.path)
            self._lock = _locked(self.path)
        except OSError as error:
            raise write_error(error, target, size) from error

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

    def __enter__(self) -> PartFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


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
