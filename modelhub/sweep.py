"""Scanning many files: several at once, in the order they were found, whatever becomes of one of them.

What is known already comes from the cache, what is left is judged in this process or, where there is much of it, in a
:class:`~modelhub.workers.Crew` of processes. Only a window of files is held at any time, however many there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelhub.errors import SourceError
from modelhub.judging import Answer, Progress, ScanOptions, failure, is_of_interest, judge_found
from modelhub.verbs import DIGEST_LIMIT

if TYPE_CHECKING:
    from modelhub.source import Found
    from modelhub.verdict_cache import FileIdentity, VerdictCache
    from modelhub.workers import Crew

MANY = 32
"""Files to be examined from which on starting processes, and opening the cache, pays."""
_WINDOW = 1024
"""Files that are held at a time: found, being examined, or done and waiting for one before them."""
OnFile = Callable[[str | None], None]


def sweep(
    sources: Iterable[Found | SourceError],
    options: ScanOptions,
    *,
    jobs: int | None = None,
    cache: bool | None = None,
    progress: Progress | None = None,
    on_file: OnFile | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Generator[Answer, None, None]:
    """Scan each of *sources* and answer in their order, each as soon as those before it are answered.

    *jobs* is the number of processes (``None``: one for each processor, where there are enough files), *cache* whether
    verdicts are looked up and kept (``None``: where there are enough files). *on_file* is told the file that is
    examined next, or once ``None`` when several are at the same time, *progress* the bytes that are read of them for
    a digest or a deep scan, *on_note* what the user might want to know of the cache. A file whose name does not say
    that it is a model (``Found.expected``) is left out when its content does not say so either and it does no harm.
    """
    run = _Sweep(options, jobs, cache, progress, on_file)
    try:
        yield from run.answers(iter(sources))
    finally:
        note = run.close()
        if on_note is not None and note is not None:
            on_note(note)


@dataclass(slots=True, eq=False, repr=False)
class _Slot:
    """A file and its place in the order; without an answer it has yet to be examined."""

    found: Found | None
    identity: FileIdentity | None = None
    answer: Answer | None = None


class _Sweep:
    """One run of :func:`sweep`."""

    def __init__(
        self,
        options: ScanOptions,
        jobs: int | None,
        cache: bool | None,
        progress: Progress | None,
        on_file: OnFile | None,
    ) -> None:
        self._options = options
        self._progress = progress
        self._on_file = on_file or (lambda path: None)
        self._ahead: deque[_Slot] = deque()
        self._pending = 0
        self._crew: Crew[_Slot] | None = None
        self._cache: VerdictCache | None = None
        self._jobs = jobs or processors()
        self._enough_for_crew = 2 if options.reads_all or (jobs or 1) > 1 else MANY
        self._enough_for_cache = 1 if options.reads_all or cache is True else MANY
        self._wants_cache = cache is not False and options.may_be_cached

    def close(self) -> str | None:
        """End what was started; returns what there is to say of the cache."""
        if self._crew is not None:
            self._crew.close()
        if self._cache is None:
            return None
        self._cache.close()
        return self._cache.note

    def answers(self, sources: Iterator[Found | SourceError]) -> Iterator[Answer]:
        while True:
            self._take_up(sources)
            if not self._ahead:
                return
            head = self._ahead[0]
            if head.answer is None:
                self._get_on()
                continue
            self._ahead.popleft()
            if head.found is None or head.found.expected or is_of_interest(head.answer.report):
                yield head.answer

    def _take_up(self, sources: Iterator[Found | SourceError]) -> None:
        """Look ahead: as far as keeps the crew busy, and without one only while there is nothing to answer."""
        enough = MANY if self._crew is None else 4 * max(1, self._crew.size)
        while self._pending < enough and len(self._ahead) < _WINDOW:
            if self._crew is None and self._ahead and self._ahead[0].answer is not None:
                return
            source = next(sources, None)
            if source is None:
                return
            self._ahead.append(self._slot(source))

    def _slot(self, source: Found | SourceError) -> _Slot:
        if isinstance(source, SourceError):
            return _Slot(None, answer=failure(source.path or "", source, self._options.policy))
        slot = _Slot(source)
        self._look_up(slot)
        if slot.answer is None:
            self._pending += 1
            if self._crew is not None:
                self._crew.give(slot, source)
        return slot

    def _get_on(self) -> None:
        """Do something for the first file that has no answer, or for those after it."""
        if self._wants_cache and self._cache is None and self._pending >= self._enough_for_cache:
            self._open_cache()
        elif self._crew is None and self._jobs > 1 and self._pending >= self._enough_for_crew:
            self._call_crew()
        elif self._crew is None:
            head = self._ahead[0]
            found = head.found
            assert found is not None
            if found.expected:
                self._on_file(found.path)
            self._settle(head, judge_found(found, self._options, self._progress))
        else:
            for slot, answer in self._crew.wait():
                self._settle(slot, answer)

    def _settle(self, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        self._pending -= 1
        if self._cache is not None and slot.found is not None and slot.identity is not None:
            self._cache.put(slot.found.path, slot.identity, answer.report)

    def _call_crew(self) -> None:
        from modelhub.workers import Crew

        self._crew = Crew(self._jobs, self._options, self._progress)
        self._on_file(None)
        for slot in self._ahead:
            if slot.answer is None and slot.found is not None:
                self._crew.give(slot, slot.found)

    def _open_cache(self) -> None:
        from modelhub.verdict_cache import VerdictCache, judged_by

        version = self._options.policy.version
        self._cache = VerdictCache(judged_by(version, self._options.second_opinion))
        for slot in self._ahead:
            if slot.answer is None:
                self._look_up(slot)
                self._pending -= slot.answer is not None

    def _look_up(self, slot: _Slot) -> None:
        """Answer *slot* from the cache, or note what the file is now, before it is opened."""
        found = slot.found
        if self._cache is None or found is None or found.is_folder:
            return
        from modelhub.verdict_cache import identity_of

        identity = identity_of(found.path)
        if identity is not None:
            slot.identity = identity if identity.is_settled else None
            digest = self._options.digest
            with_digest = identity.size <= DIGEST_LIMIT if digest is None else digest
            report = self._cache.get(found.path, identity, with_digest=with_digest)
            slot.answer = None if report is None else Answer(report)


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
