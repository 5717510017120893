"""The file being written: invisible under its name until it is whole.

A :class:`PartFile` lies beside its target as ``.NAME.modelhub-PID-XXXXXXXX.part`` and is linked or renamed to the
target's name only once it is written, flushed and verified. Its writer holds a lock on it, so that a part file whose
writer was killed is known by being unlocked, on whatever machine or in whatever container that was; the next
conversion to the same target removes it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from types import ModuleType, TracebackType

from modelhub import termination
from modelhub.convert.direct import Direct
from modelhub.errors import AccessDenied, ConversionError, ModelHubError, NoSpace, NotFound, WouldOverwrite

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed: that is lock enough
    fcntl = None

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_LONGEST_NAME = 255
"""Bytes of a file name that every common file system takes."""

_NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


class PartFile:
    """The future *target* of *size* bytes, open for reading and writing as ``fd`` while this context is entered.

    Leaving it without :meth:`commit` removes it.
    """

    def __init__(self, target: str, size: int) -> None:
        self.target = target
        self.folder, self._name = os.path.split(os.path.abspath(target))
        self.path = ""
        self.fd = -1
        self._size = size
        self._direct: Direct | None = None
        self._committed = False

    def __enter__(self) -> PartFile:
        """Create it, reserving its bytes so that a full disk fails now and not after gigabytes.

        Raises :class:`NoSpace`, :class:`AccessDenied`, :class:`NotFound` (no such folder) or
        :class:`ConversionError`, each naming the target.
        """
        stem = stem_of(self._name)
        remove_abandoned(self.folder, stem)
        try:
            with termination.held():
                self.path, self.fd = _create(self.folder, stem)
            _reserve(self.fd, self.folder, self._size)
            self._direct = Direct(self.path, self._write_at)
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise write_error(error, self.target, self._size) from error
            raise
        return self

    def write_at(self, offset: int, data: memoryview | bytes, *, direct: bool = False) -> None:
        """Write all of *data* at *offset*; threads may call it at a time for bytes that are not each other's.

        With *direct* past the page cache where that can be, for what is not read back as a whole; it is all there after
        :meth:`settle`.
        """
        if direct and self._direct is not None:
            self._direct.write_at(offset, memoryview(data))
        else:
            self._write_at(offset, memoryview(data))

    def room(self, offset: int, size: int) -> memoryview | None:
        """Memory in which to make the *size* bytes at *offset*, which :meth:`fill` then writes as :meth:`write_at` does
        with *direct*; ``None`` where there is none."""
        return self._direct.room(offset, size) if self._direct is not None else None

    def fill(self, size: int) -> None:
        """Write the *size* bytes that this thread made in the :meth:`room` that it asked for last."""
        assert self._direct is not None
        self._direct.fill(size)

    def settle(self) -> None:
        """Have what was written directly be there, once no thread writes so any more."""
        if self._direct is not None:
            self._direct.settle()

    def _write_at(self, offset: int, view: memoryview) -> None:
        while view:
            written = _pwrite(self.fd, view, offset)
            offset += written
            view = view[written:]

    def sync(self) -> None:
        """Have every byte written reach the disk."""
        os.fsync(self.fd)

    def commit(self, *, force: bool) -> None:
        """Give it the target's name, replacing what has that name only with *force*; then flush the folder.

        Raises :class:`WouldOverwrite` when another file took the name meanwhile, or what has it is no file.
        """
        check_file(self.target)
        if fcntl is None:
            self._close()  # Windows renames no open file
        try:
            if force:
                os.replace(self.path, self.target)
            else:
                rename_to_free_name(self.path, self.target)
            self._committed = True
            sync_folder(self.folder)
        except OSError as error:
            raise write_error(error, self.target) from error

    def discard(self) -> None:
        """Remove it, unless it was committed."""
        if not self._committed:
            with suppress(OSError):
                if fcntl is None:
                    self._close()
                os.unlink(self.path)
        self._close()

    def _close(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def write_file(path: str, data: bytes, *, force: bool) -> None:
    """Write the file *path*, whole or not at all: with *force* in the place of what has that name.

    Raises what a :class:`PartFile` raises.
    """
    with PartFile(path, len(data)) as part:
        try:
            part.write_at(0, data)
            part.sync()
        except OSError as error:
            raise write_error(error, path, len(data)) from error
        part.commit(force=force)


def remove_abandoned(folder: str, stem: str) -> None:
    """Remove the part files in *folder* for target name *stem* whose writers are gone."""
    ours = re.compile(re.escape(f".{stem}.modelhub-") + r"\d+-[0-9a-f]{8}\.part", re.DOTALL)
    with suppress(OSError):
        for name in os.listdir(folder):
            if ours.fullmatch(name):
                with suppress(OSError):
                    _remove_unless_locked(os.path.join(folder, name))


def check_file(path: str) -> None:
    """Raise :class:`WouldOverwrite` where *path* is something else than a file, a link or a folder: a device, a pipe, a
    socket. A rename would put a file in its place."""
    with suppress(OSError):  # whatever is wrong with the name comes out when it is given
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            hint = "name a file: it is written under another name first, and then given its own"
            raise WouldOverwrite(f"{path}: it is a device, a pipe or a socket, which is not replaced", hint=hint)


def write_error(error: OSError, target: str, size: int | None = None) -> ModelHubError:
    """*error*, met while writing *target*, in words."""
    code = error.errno
    if code in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return NoSpace(f"{target}: no space left for it{'' if size is None else f': it takes {size:,} bytes'}")
    if code == errno.EFBIG:
        return NoSpace(f"{target}: larger than a file may be there{'' if size is None else f': {size:,} bytes'}")
    if code in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AccessDenied(f"{target}: may not be written: {(error.strerror or 'denied').lower()}")
    if code in {errno.ENOENT, errno.ENOTDIR}:
        return NotFound(f"{target}: cannot be written: there is no such folder")
    if code == errno.EEXIST:
        return WouldOverwrite(f"{target}: exists already")
    return ConversionError(f"{target}: cannot be written: {error.strerror or error}")


def stem_of(name: str) -> str:
    """*name*, cut so that its part file's name is not too long for a file system."""
    room = _LONGEST_NAME - len(f"..modelhub-{2**32}-00000000.part")
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return name


def _create(folder: str, stem: str) -> tuple[str, int]:
    while True:
        path = os.path.join(folder, f".{stem}.modelhub-{os.getpid()}-{os.urandom(4).hex()}.part")
        fd = os.open(path, _FLAGS, 0o666)
        if fcntl is None:
            return path, fd
        with suppress(OSError):  # a file system without locks: then nobody takes this one for abandoned either
            fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return path, fd
        os.close(fd)  # it was taken for abandoned between its creation and its locking


def _remove_unless_locked(path: str) -> None:
    if fcntl is None:
        os.unlink(path)
        return
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)


def _reserve(fd: int, folder: str, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}:
                raise
    if hasattr(os, "statvfs"):
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def rename_to_free_name(path: str, target: str) -> None:
    """Give the file *path* the name *target*, whichever process would take that name meanwhile; raises ``OSError``,
    and the file has its old name alone then."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(path, target)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:  # somebody has removed it: the other name is all there is
        pass
    except OSError:
        with suppress(OSError):
            if os.path.samefile(path, target):
                os.unlink(target)
        raise


def sync_folder(folder: str) -> None:
    """Flush the new name to disk, where folders can be flushed (not on Windows, nor without reading permission)."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}:
            raise
    finally:
        os.close(fd)


if hasattr(os, "pwrite"):

    def _pwrite(fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

else:  # Windows

    def _pwrite(fd: int, data: memoryview, offset: int) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)
