"""Writing past the page cache (``O_DIRECT``), where a file system on a disk of this machine lets us.

What is written so costs no copy into the kernel's memory and pushes nothing else out of it, and several threads may
write to one file at a time, which otherwise wait for each other. It must begin and end at multiples of
:data:`ALIGNMENT` in the file and in memory: data are gathered in aligned memory, and the bytes before the first
multiple and after the last are written in the usual way at the end, since one such write waits for all direct ones.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from contextlib import suppress

ALIGNMENT = 4096
"""Bytes; the logical blocks of disks have 512 or 4096."""

_GATHERED = 1 << 22
"""Bytes of each direct write."""

_MOST_LEFT = 1 << 23
"""Bytes that wait for the end at most."""

_FLAG = getattr(os, "O_DIRECT", 0)
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


class _Run:
    """Bytes of one thread that follow each other: *held* of them in memory, from the aligned place *begin* on."""

    __slots__ = ("begin", "held", "memory")

    def __init__(self) -> None:
        self.memory = memoryview(mmap.mmap(-1, _GATHERED))
        self.begin = self.held = 0


class Direct:
    """The file *path*, to be written directly until it is closed; *write* writes in the usual way.

    Everything is written so where the system or the file system does not know the other, or where the file system is
    not one on a disk of this machine: over a network each write would wait for its answer.
    """

    def __init__(self, path: str, write: Callable[[int, memoryview], None]) -> None:
        self._fd = -1
        self._write = write
        self._here = threading.local()
        self._lock = threading.Lock()
        self._runs: list[_Run] = []
        self._left: dict[int, bytes] = {}
        self._nbytes_left = 0
        # file systems without a block device of their own have device numbers 0:n
        if _FLAG and os.major(os.stat(path).st_dev):
            with suppress(OSError):
                self._fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | _FLAG)
        self._refused = self._fd < 0

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write *data* at *offset*, at the latest when :meth:`settle` is called. Threads may call it at a time, and a
        thread once more for bytes that it has given, in the same order: the last ones stay.

        Raises ``OSError`` as any writing does, perhaps for what was given before.
        """
        if self._refused:
            self._write(offset, data)
            return
        run = self._run()
        if run.begin + run.held != offset:
            self._end(run)
            head = -offset % ALIGNMENT
            self._leave(offset, data[:head])
            run.begin, data = offset + head, data[head:]
        while data:
            size = min(_GATHERED - run.held, len(data))
            run.memory[run.held : run.held + size] = data[:size]
            run.held += size
            data = data[size:]
            if run.held == _GATHERED:
                self._put(run, _GATHERED)
                run.begin, run.held = run.begin + _GATHERED, 0

    def settle(self) -> None:
        """Write what is held of all that was given; no thread may write meanwhile. Raises ``OSError``."""
        for run in self._runs:
            self._end(run)
        self._write_left()

    def close(self) -> None:
        """Close it, once nothing writes any more; what is not settled is lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> _Run:
        if not hasattr(self._here, "run"):
            self._here.run = _Run()
            self._runs.append(self._here.run)
        run: _Run = self._here.run
        return run

    def _end(self, run: _Run) -> None:
        """Write what *run* holds; it begins somewhere else then."""
        whole = run.held - run.held % ALIGNMENT
        self._put(run, whole)
        self._leave(run.begin + whole, run.memory[whole : run.held])
        run.begin, run.held = -1, 0

    def _put(self, run: _Run, size: int) -> None:
        """Write the first *size* bytes of *run*, directly as far as that can be."""
        written = 0
        while written < size and not self._refused:
            try:
                count = os.pwrite(self._fd, run.memory[written:size], run.begin + written)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                with self._lock:
                    self._refused = True
                    self._write_left()
                break
            if count < ALIGNMENT:
                break
            written += count - count % ALIGNMENT
        if written < size:
            self._write(run.begin + written, run.memory[written:size])

    def _leave(self, offset: int, data: memoryview) -> None:
        """Have *data* written at the end, or when much waits for that. No page is written directly as well."""
        if not data:
            return
        with self._lock:
            if self._refused:
                self._write(offset, data)
                return
            self._nbytes_left += len(data) - len(self._left.get(offset, b""))
            self._left[offset] = bytes(data)
            if self._nbytes_left > _MOST_LEFT:
                self._write_left()

    def _write_left(self) -> None:
        joined = bytearray()
        begin = -1
        for offset, data in sorted(self._left.items()):
            if begin + len(joined) != offset:
                self._write(begin, memoryview(joined))
                begin, joined = offset, bytearray()
            joined += data
        self._write(begin, memoryview(joined))
        self._left.clear()
        self._nbytes_left = 0
