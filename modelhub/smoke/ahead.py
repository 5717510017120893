"""Reading a model's files into the system's cache while another one is run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from threading import Event, Thread

from modelhub.smoke.spec import TensorFile

_PIECE = 4 << 20
_SHARE = 2
"""Of the memory that is free, half at most is filled, so that nothing which is of use now is driven out."""


class Ahead:
    """A thread that reads the files of one test at a time, and forgets what it read: it stays in the system's cache.

    A context manager: leaving it ends the reading.
    """

    def __init__(self) -> None:
        self._stopped = Event()
        self._thread: Thread | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def read(self, files: Iterable[TensorFile]) -> None:
        """Begin to read *files*, as far as there is room; what was being read before is not read on."""
        self.stop()
        self._stopped = Event()
        paths = tuple(file.path for file in files)
        self._thread = Thread(target=_read, args=(paths, _room(), self._stopped), name="smoke-ahead", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more; this waits for the piece that is being read."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None


def _read(paths: tuple[str, ...], most: int, stopped: Event) -> None:
    piece = bytearray(min(_PIECE, most))
    for path in paths:
        with suppress(OSError), open(path, "rb", buffering=0) as file:  # the worker will say what is wrong with it
            while most > 0 and not stopped.is_set():
                count = file.readinto(piece)
                if not count:
                    break
                most -= count


def _room() -> int:
    """Bytes that may be read ahead."""
    with suppress(OSError, StopIteration), open("/proc/meminfo") as rows:
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("MemAvailable:")) // _SHARE
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // _SHARE
    except (AttributeError, ValueError, OSError):  # neither Windows nor macOS tells
        return 0
