"""The digests of the files that an output is made of, computed from the moment that they are open.

By a thread of its own, which has read much of the base by the time that the plan is made and torch is imported. What is
known of a file beforehand is not computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from types import TracebackType

from modelhub import termination
from modelhub.convert.background import block_buffer, blocks
from modelhub.source import FileStat, LocalSource, Source

_BLOCK = 1 << 22
"""Bytes read at a time: after each this thread waits for the interpreter while another computes with it."""

KnownDigests = Mapping[FileStat, str]
"""The SHA-256 of files by what the file system said of each when it was computed."""


class Digesting:
    """Computes the SHA-256 of files one after the other, in the order in which they are begun; a context manager.

    A file of which the file system says what it said of one of *known* is not read.
    """

    def __init__(self, known: KnownDigests | None = None, files: Iterable[tuple[Source, object]] = ()) -> None:
        """Begin with *files* at once, whatever stands beside each."""
        self._known = known or {}
        self._stopped = Event()
        self._begun: dict[int, tuple[Source, Future[str]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digests")
        for source, _ in files:
            self.begin(source)

    def begin(self, source: Source) -> None:
        """Have *source*, which stays open until this is left, read when those before it are."""
        if id(source) not in self._begun:
            with termination.held():
                self._begun[id(source)] = source, self._thread.submit(self._digest_of, source)

    def of(self, source: Source) -> str:
        """The SHA-256 of *source*, begun now if it was not; raises what reading it raised."""
        self.begin(source)
        return termination.result(self._begun[id(source)][1])

    def _digest_of(self, source: Source) -> str:
        recorded = self._known.get(source.stat) if isinstance(source, LocalSource) else None
        return recorded or _sha256(source, self._stopped)

    def __enter__(self) -> Digesting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)


def _sha256(source: Source, stopped: Event) -> str:
    sha256 = hashlib.sha256()
    for _, block in blocks(source, 0, source.size, stopped, block_buffer(_BLOCK)):
        sha256.update(block)
    return sha256.hexdigest()
