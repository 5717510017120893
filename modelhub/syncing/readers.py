"""Processes that read headers for another one, told apart from those that scan by how little they say.

They are forked where that is safe, as :mod:`modelhub.workers` are. Files go to them and readings come back as plain
JSON and text, never as pickles. A process that dies takes one file with it. A thread listens to each, so that they go
on reading while what they have read is written down.
"""

from __future__ import annotations

import gc
import json
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from modelhub.db import Reading, Seen
from modelhub.failures import reason_of
from modelhub.syncing.reading import Reader

_AT_ONCE = 16
"""Files given to a process at a time: it finds the next one waiting when it has done with the first."""
_AHEAD = 500
"""Readings, of some ten kilobytes each, that wait to be written down."""
_WORTH_IT = 64
"""Files from which on processes are started: starting one takes as long as reading a few."""

_SELDOM = 50_000
"""Objects after which a process looks for cycles among them."""

Answer = tuple[Seen, Reading | str]
"""A file, and what it says or why it cannot be read."""


def read_all(files: Sequence[Seen], processes: int) -> Iterator[Answer]:
    """Read the headers of *files* in up to *processes* processes; answers come in any order."""
    with _seldom_collecting():
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


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Readings leave no cycles, and a list of two thousand tensors would have all objects looked through six times."""
    before = gc.get_threshold()
    gc.set_threshold(_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _read(file: Seen, reader: Reader) -> Reading | str:
    try:
        return reader.read(file)
    except Exception as error:  # a fault of ours must not keep the other files from being read
        return reason_of(error, file.path)


class _Crew:
    """The processes of one run, and what they have been given."""

    def __init__(self, files: Sequence[Seen]) -> None:
        self._waiting = deque(files)
        self._heard: queue.Queue[tuple[Seen, bytes | str] | None] = queue.Queue(_AHEAD)
        self._processes: dict[Connection, BaseProcess] = {}
        self._threads: list[threading.Thread] = []
        self._hiring = threading.Lock()
        self._closing = False

    def answers(self, size: int) -> Iterator[Answer]:
        lines = [line for line in (self._hired() for _ in range(size)) if line is not None]
        self._threads = [threading.Thread(target=self._listen, args=(line,), daemon=True) for line in lines]
        for thread in self._threads:
            thread.start()
        for _ in lines:
            while (heard := self._heard.get()) is not None:
                file, said = heard
                yield file, said if isinstance(said, str) else _unpacked(said)
        reader = Reader()
        while self._waiting:  # no process could be had
            file = self._waiting.popleft()
            yield file, _read(file, reader)

    def _hired(self) -> Connection | None:
        with self._hiring:  # one at a time: a process that is forked must not keep open what another one listens to
            # With other threads about, a fork could copy a lock that nobody in the child will ever release.
            forks = sys.platform == "linux" and threading.active_count() == 1
            context: Any = get_context("fork" if forks else "spawn")
            try:
                lines: tuple[Connection, Connection] = context.Pipe()
                ours, theirs = lines
                inherited = [ours, *self._processes] if forks else []
                process = context.Process(target=serve, args=(theirs, inherited), daemon=True)
                process.start()
            except OSError:
                return None
            theirs.close()
            self._processes[ours] = process
            return ours

    def _listen(self, line: Connection) -> None:
        """Have a process read until nothing waits any more, and another one when it dies."""
        try:
            found: Connection | None = line
            while found is not None:
                killer = self._hear(found)
                if killer is None:
                    return
                self._heard.put((killer, "the process that read it ended unexpectedly"))
                found = self._hired() if self._waiting and not self._closing else None
        finally:
            self._heard.put(None)

    def _hear(self, line: Connection) -> Seen | None:
        """Hand files out and take answers in; ends with the file that has killed the process, if one has. Those that it
        had been given after that one wait again."""
        given: deque[Seen] = deque()
        try:
            while True:
                while len(given) < _AT_ONCE:
                    try:
                        given.append(self._waiting.popleft())
                    except IndexError:
                        break
                    with suppress(OSError):  # it is dead, as will be seen when it is listened to
                        line.send_bytes(json.dumps(given[-1]).encode())
                if not given:
                    return None
                message = line.recv_bytes()
                self._heard.put((given.popleft(), message))
        except (EOFError, OSError):
            killer = given.popleft() if given else None
            self._waiting.extendleft(reversed(given))
            return killer

    def close(self) -> None:
        self._closing = True
        self._waiting.clear()
        for process in list(self._processes.values()):
            process.kill()
        while any(thread.is_alive() for thread in self._threads):
            with suppress(queue.Empty):
                self._heard.get(timeout=0.05)
        for line, process in self._processes.items():
            process.kill()
            process.join()
            process.close()
            line.close()
        self._processes.clear()


_LONG = ("metadata", "about", "words", "observation")
"""Fields of a reading that are told as they are: most of it is text, in which JSON would escape every quote."""


def _packed(said: Reading | str) -> bytes:
    if isinstance(said, str):
        return len(head := json.dumps(said).encode()).to_bytes(4, "little") + head
    texts = [getattr(said, name).encode("utf-8", "surrogatepass") for name in _LONG]
    parts = [*texts, said.layout] if said.layout is not None else texts
    rest = said._replace(metadata="", about="", words="", observation="", layout=None)
    head = json.dumps([rest, list(map(len, parts))]).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *parts])


def _unpacked(message: bytes) -> Reading | str:
    start = 4 + int.from_bytes(message[:4], "little")
    said = json.loads(message[4:start])
    if isinstance(said, str):
        return said
    rest, lengths = said
    parts = [message[begin:end] for begin, end in pairwise(accumulate(lengths, initial=start))]
    texts = [part.decode("utf-8", "surrogatepass") for part in parts[: len(_LONG)]]
    long: dict[str, Any] = dict(zip(_LONG, texts, strict=True))
    return Reading(*rest)._replace(**long, layout=parts[-1] if len(parts) > len(_LONG) else None)


def serve(line: Connection, inherited: Sequence[Connection] = ()) -> None:
    """Be such a process: read each file that comes down *line*, until it is closed at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what was there before needs no looking through
    gc.set_threshold(_SELDOM)
    for other in inherited:
        other.close()
    reader = Reader()
    try:
        while True:
            line.send_bytes(_packed(_read(Seen(*json.loads(line.recv_bytes())), reader)))
    except (EOFError, OSError):
        return
