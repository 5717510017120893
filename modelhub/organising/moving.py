"""One file, or one folder, from its name to another that is free; whichever moment it is interrupted at, its bytes are
whole under one of the two names."""

from __future__ import annotations

import errno
import hashlib
import os
import stat as stat_module
from contextlib import suppress
from typing import NamedTuple

from modelhub.convert.target import PartFile, remove_abandoned, rename_to_free_name, stem_of, sync_folder, write_error
from modelhub.errors import ChangedDuringRead, ConversionError, NotFound, VerificationFailed, WouldOverwrite
from modelhub.placing import is_inside
from modelhub.source import digest_of, open_local
from modelhub.source.digest import CHUNK


class Stamp(NamedTuple):
    """What the file system says of a file: by which it is known to be the same. A folder has its inode alone."""

    size: int
    mtime_ns: int
    ino: int
    is_folder: bool


def stamp(path: str) -> Stamp:
    """The stamp of what has the name *path*, links not followed. Raises :class:`NotFound`."""
    try:
        st = os.lstat(path)
    except OSError as error:
        raise NotFound(f"{path}: no such file or folder") from error
    if stat_module.S_ISDIR(st.st_mode):
        return Stamp(0, 0, st.st_ino, True)
    return Stamp(st.st_size, st.st_mtime_ns, st.st_ino, False)


def move(source: str, target: str, expected: Stamp) -> None:
    """Give what has the name *source*, and was *expected* there, the name *target*, for which folders are made.

    A file is renamed or, from one file system to another, copied, compared, and removed. Raises
    :class:`ChangedDuringRead` for another file than expected, :class:`WouldOverwrite` for a name that is taken,
    :class:`ConversionError` for a folder that would go into itself, and what writing can raise.
    """
    if stamp(source) != expected:
        raise ChangedDuringRead(f"{source}: it is another file than it was")
    if expected.is_folder and is_inside(os.path.dirname(target), source):
        raise ConversionError(f"{target}: lies in the folder that would be moved there")
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if expected.is_folder:
            if os.path.lexists(target):
                raise WouldOverwrite(f"{target}: exists already")
            os.rename(source, target)  # which replaces nothing but an empty folder
        else:
            _move_file(source, target)
    except OSError as error:
        raise write_error(error, target) from error


def _move_file(source: str, target: str) -> None:
    try:
        rename_to_free_name(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)
        try:
            os.unlink(source)
        except FileNotFoundError:  # somebody has removed it: the copy is all there is
            pass
        except OSError:
            with suppress(OSError):
                os.lstat(source)
                os.unlink(target)
            raise


def _copy(source: str, target: str) -> None:
    """Copy the file *source* to *target*, with its times, which appears when the copy has been compared with it."""
    with open_local(source) as original, PartFile(target, original.size) as part:
        buffer = memoryview(bytearray(CHUNK))
        sha256, offset = hashlib.sha256(), 0
        while got := original.readinto_at(offset, buffer):
            part.write_at(offset, buffer[:got])
            sha256.update(buffer[:got])
            offset += got
        st = os.stat(source)
        os.utime(part.path, ns=(st.st_atime_ns, st.st_mtime_ns))
        with suppress(OSError):
            os.chmod(part.path, stat_module.S_IMODE(st.st_mode))
        part.sync()
        with open_local(part.path) as written:
            if digest_of(written).sha256 != sha256.hexdigest():
                raise VerificationFailed(f"{target}: what was written is not what {source} holds")
        original.check_unchanged()
        part.commit(force=False)


def settle(source: str, target: str, expected: Stamp) -> bool:
    """Whether *target* has become what was *expected* at *source*, where a move was interrupted: a name too many is
    taken away. What has another stamp is none of ours, and is left as it is."""
    if not os.path.lexists(target):
        return False
    folder, name = os.path.split(target)
    remove_abandoned(folder, stem_of(name))
    if not os.path.lexists(source) or stamp(source) != expected:  # another file may have taken its name after it
        there = stamp(target)
        return there == expected or (there[:2] == expected[:2] and not there.is_folder)  # a copy has its own inode
    if expected.is_folder or not stat_module.S_ISREG(os.lstat(target).st_mode):
        return False
    if not os.path.samefile(source, target) and not _is_copy(source, target):
        return False
    os.unlink(source)
    return True


def _is_copy(source: str, target: str) -> bool:
    if stamp(source)[:2] != stamp(target)[:2]:
        return False
    with open_local(source) as original, open_local(target) as copy:
        return digest_of(original) == digest_of(copy)


def flush(folders: set[str]) -> None:
    """Have the names in *folders* reach the disk, those that are gone again passed over."""
    for folder in sorted(folders):
        with suppress(FileNotFoundError):
            sync_folder(folder)
