"""Workers side by side, one for each device: each is given a test when it has none, and answers when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Generic, TypeVar

from modelhub import termination
from modelhub.smoke.run import Limits, Measured, Worker
from modelhub.smoke.spec import SmokeSpec

T = TypeVar("T")


class Crew(Generic[T]):
    """A worker for each of *devices* (``None``: the device that each test asks for), told apart by *T*, their tests.

    Each has a thread that waits for it, and for nothing else: the tests are prepared, judged and written down by the
    thread that made the crew. A context manager: leaving it ends the workers, whatever they do.
    """

    def __init__(self, limits: Limits | None = None, devices: Sequence[str | None] = (None,)) -> None:
        self._workers = [Worker(limits, device) for device in devices]
        self._idle = list(reversed(self._workers))
        self._done: Queue[tuple[Worker, T, Measured | BaseException]] = Queue()
        self._threads = ThreadPoolExecutor(len(self._workers), "smoke")

    def __enter__(self) -> Crew[T]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown()
        for worker in self._workers:
            worker.__exit__()

    @property
    def has_idle(self) -> bool:
        """Whether there is a worker without a test."""
        return bool(self._idle)

    @property
    def is_busy(self) -> bool:
        """Whether there is one with a test."""
        return len(self._idle) < len(self._workers)

    def start(self, test: T, spec: SmokeSpec) -> None:
        """Let an idle worker carry out *spec*, which is of *test*; the last one to be done is the next one asked."""
        self._threads.submit(self._run, self._idle.pop(), test, spec)

    def next_done(self) -> tuple[T, Measured]:
        """The next test that is done, and what its worker measured; waits for it."""
        worker, test, measured = termination.get(self._done)
        self._idle.append(worker)
        if isinstance(measured, BaseException):
            raise measured
        return test, measured

    def _run(self, worker: Worker, test: T, spec: SmokeSpec) -> None:
        try:
            measured: Measured | BaseException = worker.run(spec)
        except BaseException as error:
            measured = error
        self._done.put((worker, test, measured))
