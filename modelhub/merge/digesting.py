"""The digests of the files that an output is made of, computed from the moment that it is planned.

By a thread of its own, which has read much of the base by the time that torch is imported. What is known of a file
beforehand is not computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from modelhub.convert.background import Background, Stopped, block_buffer, blocks
from modelhub.source import FileStat, LocalSource, Source

Digesting = Background[Mapping[str, str]]
"""The SHA-256 of files by what stands for each in the outputs' headers, when they are known."""

KnownDigests = Mapping[FileStat, str]
"""The SHA-256 of files by what the file system said of each when it was computed."""


def digesting(pending: Iterable[tuple[Source, str]], known: KnownDigests | None = None) -> Digesting:
    """The digests of *pending*, files and what stands for the SHA-256 of each; a context manager.

    A file of which the file system says what it said of one of *known* is not read.
    """
    given = known or {}

    def digest_of(source: Source, stopped: Stopped) -> str:
        recorded = given.get(source.stat) if isinstance(source, LocalSource) else None
        return recorded or _sha256(source, stopped)

    return Background(lambda stopped: {mark: digest_of(source, stopped) for source, mark in pending})


def _sha256(source: Source, stopped: Stopped) -> str:
    sha256 = hashlib.sha256()
    for _, block in blocks(source, 0, source.size, stopped, block_buffer()):
        sha256.update(block)
    return sha256.hexdigest()
