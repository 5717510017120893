"""Putting a file that needs no conversion into the library, without a second copy of its bytes where possible."""

from __future__ import annotations

import os
from collections.abc import Callable

from modelhub.convert.target import PartFile, write_error
from modelhub.errors import ChangedDuringRead, ModelHubError, SourceError, WouldOverwrite
from modelhub.source import Digest, digest_of, open_local
from modelhub.source.digest import CHUNK

Progress = Callable[[int], None]


def place(path: str, target: str, digest: Digest, *, progress: Progress | None = None) -> tuple[str, str]:
    """Have the bytes of *path*, whose digest is *digest*, at *target* too; returns where and how.

    How is ``linked`` (a hard link, or they were there already) or ``copied``. Where another file has the name, a piece
    of the digest is added to it. Raises :class:`WouldOverwrite` when that is taken too, and what copying can raise.
    """
    target = _free_or_same(path, target, digest)
    if os.path.lexists(target):
        return target, "linked"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    except OSError as error:
        raise write_error(error, target) from error
    try:
        os.link(os.path.realpath(path), target)
    except FileExistsError as error:
        raise WouldOverwrite(f"{target}: exists already") from error
    except OSError:
        _copy(path, target, digest, progress)
        return target, "copied"
    return target, "linked"


def _copy(path: str, target: str, digest: Digest, progress: Progress | None) -> None:
    """Copy *path* to *target*, which appears whole or not at all and with the digest expected."""
    with open_local(path) as source, PartFile(target, source.size) as part:
        buffer = memoryview(bytearray(CHUNK))
        offset = 0
        try:
            while got := source.readinto_at(offset, buffer):
                part.write_at(offset, buffer[:got])
                offset += got
                if progress is not None:
                    progress(got)
            part.sync()
        except OSError as error:
            raise write_error(error, target, source.size) from error
        source.check_unchanged()
        with open_local(part.path) as written:
            if digest_of(written) != digest:
                raise ChangedDuringRead(f"{path}: it changed while it was copied")
        part.commit(force=False)


def _free_or_same(path: str, target: str, digest: Digest) -> str:
    stem, extension = os.path.splitext(target)
    for candidate in (target, f"{stem}-{digest.sha256[:8]}{extension}"):
        if not os.path.lexists(candidate) or _has_digest(candidate, path, digest):
            return candidate
    raise WouldOverwrite(f"{target}: exists already, and so does the other name for it", hint="move one away")


def _has_digest(candidate: str, path: str, digest: Digest) -> bool:
    try:
        if os.path.samefile(candidate, path):
            return True
        with open_local(candidate) as source, open_local(path) as original:
            return source.size == original.size and digest_of(source) == digest
    except (OSError, ModelHubError, SourceError):
        return False
