"""Processes that read headers for another one, told apart from those that scan by how little they say.

They are forked where that is safe, as :mod:`modelhub.workers` are. Files go to them and readings come back as plain
JSON, never as pickles. A process that dies takes one file with it.
"""

from __future__ import annotations

import base64
import gc
import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from modelhub.db import Reading, Seen
from modelhub.failures import reason_of
from modelhub.syncing.reading import Reader

_AT_ONCE = 16
"""Files given to a process at a time: reading one takes about as long as telling of it."""
_WORTH_IT = 64
"""Files from which on processes are started: starting one takes as long as reading a few."""

_SELDOM = 50_000
"""Objects after which a process looks for cycles among them."""

Answer = tuple[Seen, Reading | str]
"""A file, and what it says or why it cannot be read."""


def read_all(files: Sequence[Seen], processes: int) -> Iterator[Answer]:
    """Read the headers of *files* in up to *processes* processes; answers come in any order."""
    if processes < 2 or len(files) < _WORTH_IT:
        reader = Reader()
        for file in files:
            yield file, _read(file, reader)
        return
    crew = _Crew(files)
    try:
        yield from crew.answers(processes)
    finally:
        crew.close()


def _read(file: Seen, reader: Reader) -> Reading | str:
    try:
        return reader.read(file)
    except Exception as error:  # a fault of ours must not keep the other files from being read
        return reason_of(error, file.path)


class _Crew:
    """The processes of one run, and what they have been given."""

    def __init__(self, files: Sequence[Seen]) -> None:
        self._waiting = deque(files)
        self._given: dict[Connection, deque[Seen]] = {}
        self._processes: dict[Connection, BaseProcess] = {}

    def answers(self, size: int) -> Iterator[Answer]:
        for _ in range(size):
            self._hire()
        if not self._processes:
            reader = Reader()
            while self._waiting:
                file = self._waiting.popleft()
                yield file, _read(file, reader)
        while any(self._given.values()):
            for line in wait(list(self._processes)):
                assert isinstance(line, Connection)
                yield from self._hear(line)

    def _hire(self) -> None:
        # With other threads about, a fork could copy a lock that nobody in the child will ever release.
        forks = sys.platform == "linux" and threading.active_count() == 1
        context: Any = get_context("fork" if forks else "spawn")
        try:
            ours, theirs = context.Pipe()
            inherited = [ours, *self._processes] if forks else []
            process = context.Process(target=serve, args=(theirs, inherited), daemon=True)
            process.start()
        except OSError:
            return
        theirs.close()
        self._processes[ours] = process
        self._given[ours] = deque()
        self._hand_out(ours)

    def _hand_out(self, line: Connection) -> None:
        given = self._given[line]
        while self._waiting and len(given) < _AT_ONCE:
            file = self._waiting.popleft()
            given.append(file)
            with suppress(OSError):  # it is dead, as will be seen when it is listened to
                line.send_bytes(json.dumps(file).encode())

    def _hear(self, line: Connection) -> Iterator[Answer]:
        try:
            message = line.recv_bytes()
        except (EOFError, OSError):
            yield from self._bury(line)
            return
        file = self._given[line].popleft()
        self._hand_out(line)
        yield file, _told(json.loads(message))

    def _bury(self, line: Connection) -> Iterator[Answer]:
        """The file that a dead process was at has killed it; those after it are given to others."""
        given = self._given.pop(line)
        process = self._processes.pop(line)
        line.close()
        process.join()
        killer = given.popleft() if given else None
        self._waiting.extendleft(reversed(given))
        if self._waiting:
            self._hire()
        if killer is not None:
            yield killer, "the process that read it ended unexpectedly"
        if not self._processes:
            reader = Reader()
            while self._waiting:
                file = self._waiting.popleft()
                yield file, _read(file, reader)

    def close(self) -> None:
        for line, process in self._processes.items():
            line.close()
            process.kill()
        for process in self._processes.values():
            process.join()
            process.close()
        self._processes.clear()


def _told(said: Any) -> Reading | str:
    if isinstance(said, str):
        return said
    reading = Reading(*said)
    return reading._replace(layout=base64.b64decode(reading.layout)) if reading.layout is not None else reading


def serve(line: Connection, inherited: Sequence[Connection] = ()) -> None:
    """Be such a process: read each file that comes down *line*, until it is closed at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what was there before needs no looking through, and readings leave no cycles:
    gc.set_threshold(_SELDOM)  # a list of two thousand tensors would have it looked through six times
    for other in inherited:
        other.close()
    reader = Reader()
    try:
        while True:
            reading = _read(Seen(*json.loads(line.recv_bytes())), reader)
            if isinstance(reading, Reading) and reading.layout is not None:
                plain: Any = reading._replace(layout=base64.b64encode(reading.layout).decode())  # type: ignore[arg-type]
            else:
                plain = reading
            line.send_bytes(json.dumps(plain).encode())
    except (EOFError, OSError):
        return
