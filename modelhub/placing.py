"""Where models go in a library, and putting those there that need no conversion, without a second copy if possible."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable

from modelhub.convert.part_folder import PartFolder
from modelhub.convert.target import PartFile, write_error
from modelhub.errors import ChangedDuringRead, ModelHubError, WouldOverwrite
from modelhub.source import Digest, digest_of, open_local
from modelhub.source.digest import CHUNK

Progress = Callable[[int], None]


def library_path(library: str, kind: str | None, architecture: str | None, name: str) -> str:
    """``<library>/<kind>/<architecture>/<name>``"""
    return os.path.join(library, _folder_name(kind), _folder_name(architecture), name)


def is_inside(path: str, folder: str) -> bool:
    """Whether *path* is *folder* or lies in it, links followed."""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([inner, outer]) == outer if inner[:1] == outer[:1] else False


def free_or_same(target: str, digest: Digest, is_same: Callable[[str], bool], *, folder: bool = False) -> str:
    """*target*, or the same with a piece of the source's *digest* where another file or folder has that name.

    What *is_same* says of is not another one: it is kept. Raises :class:`WouldOverwrite` where both names are taken.
    """
    stem, extension = (target, "") if folder else os.path.splitext(target)
    for candidate in (target, f"{stem}-{digest.sha256[:8]}{extension}"):
        if not os.path.lexists(candidate) or is_same(candidate):
            return candidate
    raise WouldOverwrite(f"{target}: exists already, and so does the other name for it", hint="move one away")


def place(path: str, target: str, digest: Digest, *, progress: Progress | None = None) -> tuple[str, str]:
    """Have the bytes of *path*, whose digest is *digest*, at *target* too; returns where and how.

    How is ``linked`` (a hard link, or they were there already) or ``copied``. Where another file has the name, a piece
    of the digest is added to it. Raises :class:`WouldOverwrite` when that is taken too, and what copying can raise.
    """
    target = free_or_same(target, digest, lambda candidate: _is_copy(candidate, path, digest))
    if os.path.lexists(target):
        return target, "linked"
    _make_parents(target)
    return target, _link_or_copy(path, target, digest, progress)


def place_folder(
    path: str, target: str, digest: Digest, files: Iterable[str], *, progress: Progress | None = None
) -> tuple[str, str]:
    """Have the *files* of the folder *path*, relative with ``/``, in the folder *target* too, all of them or none.

    As :func:`place`, with *digest* that of the folder; ``copied`` if any file was.
    """
    names = sorted(files)

    def is_same(candidate: str) -> bool:
        return all(_is_copy(os.path.join(candidate, name), os.path.join(path, name)) for name in names)

    target = free_or_same(target, digest, is_same, folder=True)
    if os.path.lexists(target):
        return target, "linked"
    _make_parents(target)
    with PartFolder(target, 0) as part:
        how = {_link_or_copy(os.path.join(path, name), part.file(name), None, progress) for name in names}
        part.commit()
    return target, "copied" if "copied" in how else "linked"


def _make_parents(target: str) -> None:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    except OSError as error:
        raise write_error(error, target) from error


def _link_or_copy(path: str, target: str, digest: Digest | None, progress: Progress | None) -> str:
    """Have the bytes of *path* at the free name *target*; ``linked`` or ``copied``."""
    try:
        os.link(os.path.realpath(path), target)
    except FileExistsError as error:
        raise WouldOverwrite(f"{target}: exists already") from error
    except OSError:
        copy(path, target, digest, progress)
        return "copied"
    return "linked"


def copy(path: str, target: str, digest: Digest | None = None, progress: Progress | None = None) -> None:
    """Copy *path* to *target*, which appears whole or not at all and with the digest expected, if one is."""
    with open_local(path) as source, PartFile(target, source.size) as part:
        buffer = memoryview(bytearray(CHUNK))
        sha256 = hashlib.sha256()
        offset = 0
        try:
            while got := source.readinto_at(offset, buffer):
                part.write_at(offset, buffer[:got])
                sha256.update(buffer[:got])
                offset += got
                if progress is not None:
                    progress(got)
            part.sync()
        except OSError as error:
            raise write_error(error, target, source.size) from error
        source.check_unchanged()
        with open_local(part.path) as written:
            if digest_of(written) != (digest or Digest(sha256.hexdigest())):
                raise ChangedDuringRead(f"{path}: it changed while it was copied")
        part.commit(force=False)


def _is_copy(candidate: str, path: str, digest: Digest | None = None) -> bool:
    """Whether *candidate* holds the bytes of *path*, whose *digest* may be known."""
    try:
        if os.path.samefile(candidate, path):
            return True
        with open_local(candidate) as source, open_local(path) as original:
            return source.size == original.size and digest_of(source) == (digest or digest_of(original))
    except (OSError, ModelHubError):
        return False


def _folder_name(word: str | None) -> str:
    """A word of the identity as a folder's name: ``sd-1``; ``unknown`` where it is not known."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word or "").strip(".-") or "unknown"
