"""Processes that scan files for another one.

They are forked where that is safe, since a fork starts in a millisecond with everything loaded, and spawned elsewhere.
Paths go to them and reports come back as plain bytes, never as pickles. A worker that dies takes one file with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from modelhub.failures import failed_report
from modelhub.judging import Answer, ScanOptions, judge_found
from modelhub.scan.stored import dump_report, load_report
from modelhub.source import Found

_AT_ONCE = 2
"""Files given to a worker at a time: it finds the next one waiting when it has done with the first."""
_SMALL_LOAD = 4
"""Files that must wait for each worker before another one is started, where a file takes but milliseconds."""
_TOLD_EVERY = 1 << 24
_UP = b"up"

Ticket = TypeVar("Ticket")


@dataclass(slots=True)
class _Worker(Generic[Ticket]):
    process: BaseProcess
    line: Connection
    given: deque[tuple[Ticket, Found]] = field(default_factory=deque)
    is_up: bool = False


class Crew(Generic[Ticket]):
    """At most *size* processes that scan with *options*; close it in the end.

    :meth:`give` it files, each with a ticket of the caller's, and :meth:`wait` for the answers, in any order.
    *progress* is told the bytes that are read for a digest or a deep scan. Where no process can be had, files are
    scanned in this one.
    """

    def __init__(self, size: int, options: ScanOptions, progress: Callable[[int], None] | None = None) -> None:
        self.size = size
        self._options = options
        self._progress = progress
        self._waiting: deque[tuple[Ticket, Found]] = deque()
        self._workers: list[_Worker[Ticket]] = []
        self._load = 1 if options.reads_all else _SMALL_LOAD

    def give(self, ticket: Ticket, found: Found) -> None:
        """Have *found* scanned when there is a worker for it."""
        self._waiting.append((ticket, found))

    def wait(self) -> list[tuple[Ticket, Answer]]:
        """The answers that are there, once there is one; none only where none is due."""
        answers: list[tuple[Ticket, Answer]] = []
        while not answers and (self._waiting or any(worker.given for worker in self._workers)):
            self._hand_out()
            if not self._workers:
                ticket, found = self._waiting.popleft()
                return [(ticket, judge_found(found, self._options, self._progress))]
            ready = wait([worker.line for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.line in ready]:
                answers += self._hear(worker)
        self._hand_out()
        return answers

    def close(self) -> None:
        """End every worker, whatever it is doing."""
        for worker in self._workers:
            worker.line.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers.clear()

    def _hand_out(self) -> None:
        while len(self._workers) < self.size and len(self._waiting) > self._load * len(self._workers):
            worker = self._hired()
            if worker is None:
                break
            self._hand_to(worker)
        for worker in self._workers:
            while self._waiting and len(worker.given) < _AT_ONCE:
                self._hand_to(worker)

    def _hand_to(self, worker: _Worker[Ticket]) -> None:
        ticket, found = self._waiting.popleft()
        worker.given.append((ticket, found))
        try:
            worker.line.send_bytes((b"+" if found.expected else b"?") + os.fsencode(found.path))
        except OSError:
            return  # it is dead, as will be seen when it is listened to

    def _hear(self, worker: _Worker[Ticket]) -> list[tuple[Ticket, Answer]]:
        """What *worker* has to say: an answer, how far it is, or, having died, nothing any more."""
        try:
            message = worker.line.recv_bytes()
        except (EOFError, OSError):
            return self._lost(worker)
        if message == _UP:
            worker.is_up = True
            return []
        if message[:1] == b"p":
            if self._progress is not None:
                self._progress(int(message[1:]))
            return []
        ticket, _ = worker.given.popleft()
        said = json.loads(message)
        return [(ticket, Answer(load_report(said["report"]), said["traceback"]))]

    def _lost(self, worker: _Worker[Ticket]) -> list[tuple[Ticket, Answer]]:
        """Bury a dead *worker*: the file it was at has killed it, those after it are given to others."""
        self._workers.remove(worker)
        worker.line.close()
        worker.process.join()
        answers: list[tuple[Ticket, Answer]] = []
        code = worker.process.exitcode
        worker.process.close()
        if not worker.is_up:  # no file's fault: the next would not come up either
            self.size = len(self._workers)
        elif worker.given:
            ticket, found = worker.given.popleft()
            reason = f"the process that examined it ended {_how(code)}"
            version = self._options.policy.version
            answers = [(ticket, Answer(failed_report(found.path, "internal.error", reason, version)))]
        self._waiting.extendleft(reversed(worker.given))
        return answers

    def _hired(self) -> _Worker[Ticket] | None:
        """A new worker; ``None``, now and from now on, where no process can be had."""
        # With other threads about, a fork could copy a lock that nobody in the child will ever release.
        forks = sys.platform == "linux" and threading.active_count() == 1
        context: Any = get_context("fork" if forks else "spawn")
        with _deaf_to_ctrl_c():  # Ctrl-C is this process's affair, and must not come between start and list
            try:
                ours, theirs = context.Pipe()
                inherited = [ours, *(worker.line for worker in self._workers)] if forks else []
                process = context.Process(target=serve, args=(theirs, self._options, inherited), daemon=True)
                process.start()
            except OSError:
                self.size = len(self._workers)
                return None
            theirs.close()
            worker: _Worker[Ticket] = _Worker(process, ours)
            self._workers.append(worker)
            return worker


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Hold SIGINT back, also from what is started meanwhile, which never hears it then."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is None or exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        return f"by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"by signal {-exit_code}"


def serve(line: Connection, options: ScanOptions, inherited: Sequence[Connection] = ()) -> None:
    """Be a worker: answer for each path that comes down *line*, until it is closed at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        other.close()
    told = _Telling(line)
    try:
        line.send_bytes(_UP)
        while True:
            message = line.recv_bytes()
            found = Found(os.fsdecode(message[1:]), expected=message[:1] == b"+")
            answer = judge_found(found, options, told)
            told.rest()
            said = {"report": dump_report(answer.report), "traceback": answer.traceback}
            line.send_bytes(json.dumps(said).encode())
    except (EOFError, OSError):
        return


class _Telling:
    """Bytes read, told down a line in large sums."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._untold = 0

    def __call__(self, nbytes: int) -> None:
        self._untold += nbytes
        if self._untold >= _TOLD_EVERY:
            self.rest()

    def rest(self) -> None:
        """Tell what is not told yet."""
        if self._untold:
            self._line.send_bytes(b"p%d" % self._untold)
            self._untold = 0
