"""Processes that read headers for another one, told apart from those that scan by how little they say.

They are forked where that is safe, as :mod:`modelhub.workers` are. Files go to them and readings come back a few at a
time, as plain JSON and text, never as pickles. When a process dies, each file that it may have died of is read again on
its own, so that it takes at most one with it. A thread listens to each process, so that they go on reading while what
they have read is written down.
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
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from modelhub.db import Reading, Seen
from modelhub.failures import reason_of
from modelhub.syncing.reading import Reader

_TOGETHER = 16
"""Files given to a process in one message: a message takes as long as reading a small file."""
_AT_ONCE = 2
"""Messages given to a process at a time: it finds the next one waiting when it has done with the first."""
_LARGEST = 1 << 20
"""Bytes of readings that are told before all files of a message are read: a reading takes some ten kilobytes."""
_AHEAD = 64
"""Messages that wait to be written down: what is read in half a second, in which a transaction is written."""
_WORTH_IT = 64
"""Files from which on processes are started: starting one takes as long as reading a few."""

_SELDOM = 50_000
"""Objects after which a process looks for cycles among them."""

Answer = tuple[Seen, Reading | str]
"""A file, and what it says or why it cannot be read."""
_Files = tuple[Seen, ...]


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
        self._waiting = deque(tuple(files[start : start + _TOGETHER]) for start in range(0, len(files), _TOGETHER))
        self._heard: queue.Queue[tuple[_Files, bytes | str] | None] = queue.Queue(_AHEAD)
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
                files, said = heard
                yield from zip(files, [said] if isinstance(said, str) else _unpacked(said), strict=True)
        reader = Reader()
        while self._waiting:  # no process could be had
            for file in self._waiting.popleft():
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
                suspects = self._hear(found)
                if not suspects:
                    return
                if len(suspects) == 1:
                    self._heard.put((suspects, "the process that read it ended unexpectedly"))
                else:
                    self._waiting.extendleft((file,) for file in reversed(suspects))
                found = self._hired() if self._waiting and not self._closing else None
        finally:
            self._heard.put(None)

    def _hear(self, line: Connection) -> _Files:
        """Hand files out and take answers in; ends with the files of which one may have killed the process, none where
        it has not died. What it had been given in later messages waits again."""
        given: deque[_Files] = deque()
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
                    return ()
                message = line.recv_bytes()
                files = given.popleft()
                told = int.from_bytes(message[:4], "little")
                if told < len(files):
                    given.appendleft(files[told:])
                self._heard.put((files[:told], message))
        except (EOFError, OSError):
            suspects = given.popleft() if given else ()
            self._waiting.extendleft(reversed(given))
            return suspects

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


_TEXTS = tuple(Reading._fields.index(name) for name in ("metadata", "about", "words", "observation"))
"""Fields of a reading that are told as they are: most of it is text, in which JSON would escape every quote."""
_LAYOUT = Reading._fields.index("layout")


def _packed(answers: Sequence[Reading | str]) -> bytes:
    """*answers* in one message: how many they are, the JSON of them, and the fields of which this has the lengths."""
    rows: list[Any] = []
    parts: list[bytes] = []
    for said in answers:
        if isinstance(said, str):
            rows.append(said)
            continue
        row: list[Any] = list(said)
        for place in _TEXTS:
            parts.append(part := row[place].encode("utf-8", "surrogatepass"))
            row[place] = len(part)
        if said.layout is not None:
            parts.append(said.layout)
            row[_LAYOUT] = len(said.layout)
        rows.append(row)
    head = json.dumps(rows).encode()
    return b"".join([len(rows).to_bytes(4, "little"), len(head).to_bytes(4, "little"), head, *parts])


def _unpacked(message: bytes) -> Iterator[Reading | str]:
    at = 8 + int.from_bytes(message[4:8], "little")
    for row in json.loads(message[8:at]):
        if isinstance(row, str):
            yield row
            continue
        for place in _TEXTS:
            begin, at = at, at + row[place]
            row[place] = message[begin:at].decode("utf-8", "surrogatepass")
        if row[_LAYOUT] is not None:
            begin, at = at, at + row[_LAYOUT]
            row[_LAYOUT] = message[begin:at]
        yield Reading(*row)


def _nbytes(said: Reading | str) -> int:
    """About how many bytes the telling of *said* takes."""
    if isinstance(said, str):
        return len(said)
    return sum(map(len, (said.metadata, said.about, said.words, said.observation, said.layout or b"")))


def serve(line: Connection, inherited: Sequence[Connection] = ()) -> None:
    """Be such a process: read the files that come down *line*, until it is closed at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what was there before needs no looking through
    gc.set_threshold(_SELDOM)
    for other in inherited:
        other.close()
    reader = Reader()
    try:
        while True:
            answers: list[Reading | str] = []
            nbytes = 0
            for each in json.loads(line.recv_bytes()):
                answers.append(said := _read(Seen(*each), reader))
                nbytes += _nbytes(said)
                if nbytes > _LARGEST:
                    line.send_bytes(_packed(answers))
                    answers, nbytes = [], 0
            if answers:
                line.send_bytes(_packed(answers))
    except (EOFError, OSError):
        return
