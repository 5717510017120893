"""Long-lived child processes that answer requests, and are replaced when they die or take too long.

A batch of requests is one message, each answer one more: a length of four bytes and JSON. So when a child dies, the
request that killed it is the first one without an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Request = dict[str, Any]
Answer = dict[str, Any]


class Worker:
    """A child running ``python -m module``; use it as a context manager.

    *timeout* is how many seconds one request may take, a child's start included. A request that took longer is answered
    ``{"failed": "hang"}``, one at which the child died ``{"failed": "died: ..."}``.
    """

    def __init__(self, module: str, timeout: float = 10.0) -> None:
        self._command = [sys.executable, "-m", module]
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def pid(self) -> int | None:
        """The present child's process id."""
        return None if self._process is None else self._process.pid

    def ask(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Send *requests* and give their answers in order; the child works while the caller does."""
        self._send(requests)
        return self._answers(list(requests))

    def _send(self, requests: Sequence[Request]) -> None:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_message(requests))
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died already, which reading its answers will show

    def _answers(self, requests: list[Request]) -> Iterator[Answer]:
        while requests:
            answer = self._answer(self.timeout)
            requests.pop(0)
            if "failed" in answer or answer.pop("last", False):
                self._stop()
                if requests:
                    self._send(requests)
            yield answer

    def _answer(self, timeout: float) -> Answer:
        assert self._process is not None and self._process.stdout is not None
        deadline = time.monotonic() + timeout
        data = b""
        wanted = 4
        while len(data) < wanted:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return {"failed": "hang"}
            read = os.read(self._process.stdout.fileno(), wanted - len(data))
            if not read:
                return {"failed": f"died: exit status {self._process.wait()}"}
            data += read
            if len(data) == 4:
                wanted = 4 + struct.unpack("<I", data)[0]
        answer: Answer = json.loads(data[4:])
        return answer

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._process = None


def serve(answer: Callable[[Request], Answer], last: Callable[[Answer], bool] = lambda _: False) -> None:
    """The child's side: answer requests until standard input ends, or until *last* says so of an answer."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(4):
        for request in json.loads(source.read(struct.unpack("<I", head)[0])):
            answered = answer(request)
            ended = last(answered)
            sink.write(_message({**answered, "last": True} if ended else answered))
            sink.flush()
            if ended:
                return


def _message(value: Any) -> bytes:
    data = json.dumps(value).encode()
    return struct.pack("<I", len(data)) + data
