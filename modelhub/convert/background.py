"""Work that other threads do while this one goes on: waiting for the disk, and reading through files for their digests.

Reading, hashing and flushing all leave the interpreter to other threads meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from modelhub import termination
from modelhub.errors import ChangedDuringRead
from modelhub.source import Source

Result = TypeVar("Result")
Stopped = threading.Event

_BLOCK = 1 << 20
_PAUSE = 0.05


class Background(Generic[Result]):
    """A call in a thread of its own. It is handed an event after whose setting its answer is not wanted any more.

    A context manager: leaving it waits for the call, and with an error has it stop.
    """

    def __init__(self, call: Callable[[Stopped], Result]) -> None:
        self._call = call
        self._stopped = Stopped()
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call(self._stopped))
        except BaseException as error:
            self._error = error

    def result(self) -> Result:
        """Wait for the call; what it returned, or raise what it raised."""
        termination.join(self._thread)
        if self._error is not None:
            raise self._error
        return self._results[0]

    def __enter__(self) -> Background[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stopped.set()
        termination.join(self._thread)


def flushing(sync: Callable[[], None], written: threading.Event) -> Background[None]:
    """Call *sync* again and again while a file is written, and once after *written* is set.

    The disk is busy from the start: left alone, a system writes nothing of the first gigabytes before it has to.
    """

    def call(stopped: Stopped) -> None:
        last = False
        while not last:
            last = written.wait(_PAUSE)
            if stopped.is_set():
                return
            sync()

    return Background(call)


def block_buffer(size: int = _BLOCK) -> memoryview:
    """Memory of *size* bytes for :func:`blocks`: one for many calls spares the kernel making one for each."""
    return memoryview(bytearray(size))


def blocks(
    source: Source, start: int, end: int, stopped: Stopped, buffer: memoryview
) -> Iterator[tuple[int, memoryview]]:
    """The bytes ``[start, end)`` of *source* as (offset, bytes), in *buffer*: valid until the next are asked for.

    Ends early once *stopped* is set. Raises :class:`ChangedDuringRead` for a source that does.
    """
    for offset in range(start, end, len(buffer)):
        if stopped.is_set():
            return
        block = buffer[: end - offset]
        if source.readinto_at(offset, block) != len(block):
            raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
        yield offset, block
