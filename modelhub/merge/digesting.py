"""The digests of the files that an output is made of, computed from the moment that it is planned.

By a thread of its own, which has read much of the base by the time that torch is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from modelhub.convert.background import Background, Stopped, block_buffer, blocks
from modelhub.source import Source

Digesting = Background[Mapping[str, str]]
"""The SHA-256 of files by what stands for each in the outputs' headers, when they are known."""


def digesting(pending: Iterable[tuple[Source, str]]) -> Digesting:
    """The digests of *pending*, files and what stands for the SHA-256 of each; a context manager."""
    return Background(lambda stopped: {mark: _sha256(source, stopped) for source, mark in pending})


def _sha256(source: Source, stopped: Stopped) -> str:
    sha256 = hashlib.sha256()
    for _, block in blocks(source, 0, source.size, stopped, block_buffer()):
        sha256.update(block)
    return sha256.hexdigest()
