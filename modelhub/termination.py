"""Being asked to end, by Ctrl-C, the system or a closing terminal, and cleaning up before doing so.

Python turns Ctrl-C into an exception, and dies at once of other signals. :func:`listen` makes exceptions of those, too,
and closes the three gaps that Ctrl-C has: an exception that comes where Python swallows it comes again, a child process
that is just being started (:func:`run`) is not lost, and no wait for a thread is deaf (:func:`get`, :func:`result`,
:func:`join`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future
    from queue import Queue, SimpleQueue
    from subprocess import CompletedProcess

T = TypeVar("T")

_ASKING = {
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if (number := getattr(signal, name, None)) is not None
}
"""What asks a process to end; SIGBREAK is Windows', SIGHUP is not."""

_AGAIN = 0.01
"""Seconds after which an exception that Python swallowed comes again."""

DEAF = 0.2
"""Seconds for which a wait may not hear a signal."""


class Terminated(KeyboardInterrupt):
    """This process was asked to end by the signal *number*. Whatever cleans up after Ctrl-C cleans up after it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Ear:
    """What hears the signals of one process."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._heard = False
        self._held = 0
        self._pending: int | None = None
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._swallowed
        for number in _ASKING:  # not what is ignored, as by nohup
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._hear)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hear nothing until this is left."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._pending is not None and not self._held:
                number, self._pending = self._pending, None
                self._hear(number)

    def _hear(self, number: int, frame: FrameType | None = None) -> None:
        if os.getpid() != self._process:  # a fork, which nobody would clean up after
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._held:
            self._pending = number
        elif not self._heard or number == signal.SIGINT:  # others must not break into the cleaning up
            self._heard = True
            raise Terminated(number)

    def _swallowed(self, what: Any) -> None:
        if not isinstance(what.exc_value, Terminated):
            self._hook(what)
            return
        self._heard = False
        number = what.exc_value.number
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self._hear(number))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)


_ears: list[_Ear] = []


def listen() -> None:
    """From now on let these signals raise :class:`Terminated` in this, the main thread: SIGINT always, others once."""
    _ears.append(_Ear())


@contextmanager
def held() -> Iterator[None]:
    """Let no signal raise until this is left; in other threads than the main one none does anyway."""
    if _ears and threading.current_thread() is threading.main_thread():
        with _ears[-1].held():
            yield
    else:
        yield


def get(queue: Queue[T] | SimpleQueue[T], seconds: float = float("inf")) -> T:
    """:meth:`queue.Queue.get` that hears signals; raises :class:`queue.Empty` after *seconds*.

    Python ends a wait for a lock when the main thread itself is interrupted. A signal that the system gave to another
    thread, or that came just before the wait, would be heard only when something is put into the queue.
    """
    from queue import Empty

    latest = time.monotonic() + seconds
    while True:
        left = latest - time.monotonic()
        try:
            return queue.get(timeout=max(0.0, min(left, DEAF)))
        except Empty:
            if left <= DEAF:
                raise


def result(task: Future[T]) -> T:
    """What *task* returned or raised; a wait for it that hears signals, as :func:`get`."""
    from concurrent.futures import wait

    while not task.done():
        wait((task,), timeout=DEAF)
    return task.result()


def join(thread: threading.Thread) -> None:
    """Wait for the end of *thread* and hear signals, as :func:`get`."""
    while thread.is_alive():
        thread.join(DEAF)


def run(
    words: Sequence[str], given: bytes = b"", *, timeout: float | None = None, **how: Any
) -> CompletedProcess[bytes]:
    """:func:`subprocess.run` with *given* as input, whose child is never left behind, whenever a signal comes."""
    import subprocess

    child = None
    try:
        with held():
            child = subprocess.Popen(words, stdin=subprocess.PIPE, **how)  # noqa: S603
        out, err = child.communicate(given, timeout)
        return subprocess.CompletedProcess(words, child.returncode, out, err)
    finally:
        if child is not None:
            with child:
                child.kill()
