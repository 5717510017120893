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
    """Bytes of one thread that follow each other: those from *lead* to *held* of its memory, whose first byte belongs
    to the aligned place *begin*."""

    __slots__ = ("begin", "held", "lead", "memory")

    def __init__(self) -> None:
        self.memory = memoryview(mmap.mmap(-1, _GATHERED + ALIGNMENT))
        self.begin = self.lead = self.held = 0

    def begin_at(self, offset: int) -> None:
        self.lead = self.held = offset % ALIGNMENT
        self.begin = offset - self.lead


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

    def room(self, offset: int, size: int) -> memoryview | None:
        """Memory for the *size* bytes at *offset*, which are written once they are there and :meth:`fill` says so: what
        is made in it is spared a copy. ``None`` where they are more than it holds or nothing is written directly."""
        if self._refused or size > _GATHERED:
            return None
        run = self._at(offset)
        if run.held + size > len(run.memory):
            self._put_whole(run)
        return run.memory[run.held : run.held + size]

    def fill(self, size: int) -> None:
        """Take the *size* bytes that this thread has put into its :meth:`room`, as :meth:`write_at` does."""
        self._run().held += size

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write *data* at *offset*, at the latest when :meth:`settle` is called. Threads may call it at a time, and a
        thread once more for bytes that it has given, in the same order: the last ones stay.

        Raises ``OSError`` as any writing does, perhaps for what was given before.
        """
        run = self._at(offset)
        while data and not self._refused:
            size = min(len(run.memory) - run.held, len(data))
            run.memory[run.held : run.held + size] = data[:size]
            run.held += size
            offset, data = offset + size, data[size:]
            if run.held == len(run.memory):
                self._put_whole(run)
        if data:
            self._end(run)
            self._write(offset, data)

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

    def _at(self, offset: int) -> _Run:
        """This thread's run, which goes on at *offset*."""
        run = self._run()
        if run.begin + run.held != offset:
            self._end(run)
            run.begin_at(offset)
        return run

    def _end(self, run: _Run) -> None:
        """Write what *run* holds; it begins somewhere else then."""
        self._put_whole(run)
        self._leave(run.begin + run.lead, run.memory[run.lead : run.held])
        run.begin_at(0)

    def _put_whole(self, run: _Run) -> None:
        """Write the whole pages that *run* holds; what it holds of the next one is at the beginning of its memory then.

        Of its first page it may hold the end alone, which is left to the end.
        """
        whole = run.held - run.held % ALIGNMENT
        if not whole:
            return
        first = ALIGNMENT if run.lead else 0
        self._leave(run.begin + run.lead, run.memory[run.lead : first])
        self._put(run.begin + first, run.memory[first:whole])
        rest = run.held - whole
        run.memory[:rest] = run.memory[whole : run.held]
        run.begin, run.lead, run.held = run.begin + whole, 0, rest

    def _put(self, offset: int, pages: memoryview) -> None:
        """Write *pages* at the aligned *offset*, directly as far as that can be."""
        while pages and not self._refused:
            try:
                count = os.pwrite(self._fd, pages, offset)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                with self._lock:
                    self._refused = True
                    self._write_left()
                break
            if count < ALIGNMENT:
                break
            count -= count % ALIGNMENT
            offset, pages = offset + count, pages[count:]
        if pages:
            self._write(offset, pages)

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
