"""Digests of a source's bytes, read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelhub.source.base import Source

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    """SHA-256 of all bytes, 64 lower-case hex digits. ``str()`` carries the algorithm: ``sha256:…``."""

    sha256: str

    def __str__(self) -> str:
        return f"sha256:{self.sha256}"


def digest_of(source: Source, progress: Callable[[int], None] | None = None) -> Digest:
    """Read *source* once, in blocks of 1 MiB, and return its digest; *progress* is told bytes as they are read."""
    import hashlib

    sha256 = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    offset = 0
    while got := source.readinto_at(offset, view):
        sha256.update(view[:got])
        offset += got
        if progress is not None:
            progress(got)
    return Digest(sha256.hexdigest())


def git_id_of(source: Source) -> str:
    """By what git tells *source*, read once, from other files ("Git Objects", git-scm.com)."""
    import hashlib

    found = hashlib.sha1(b"blob %d\0" % source.size, usedforsecurity=False)
    offset = 0
    while data := source.read_at(offset, CHUNK):
        found.update(data)
        offset += len(data)
    return found.hexdigest()
