"""Writing past the page cache (``O_DIRECT``), where a file system on a disk of this machine lets us.

What is written so costs no copy into the kernel's memory and pushes nothing else out of it, and several threads may
write to one file at a time, which otherwise wait for each other. It must begin and end at multiples of
:data:`ALIGNMENT` in the file and in memory: data are moved through aligned memory, and the rest is the caller's.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from contextlib import suppress

ALIGNMENT = 4096
"""Bytes; the logical blocks of disks have 512 or 4096."""

_MOVED = 1 << 22
"""Bytes of the memory that each thread moves data through."""

_FLAG = getattr(os, "O_DIRECT", 0)
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


class Direct:
    """The file *path*, to be written directly until it is closed.

    Nothing is where the system or the file system does not know that, or where the file system is not one on a disk of
    this machine: over a network each write would wait for its answer.
    """

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._here = threading.local()
        # file systems without a block device of their own have device numbers 0:n
        if _FLAG and os.major(os.stat(path).st_dev):
            with suppress(OSError):
                self._fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | _FLAG)
        self._refused = self._fd < 0

    def write_at(self, offset: int, data: memoryview) -> int:
        """Write as much of *data* at *offset*, a multiple of :data:`ALIGNMENT`, as can be written directly.

        How many bytes that were, a multiple of it too: none where the file system turns out to refuse it. Raises
        ``OSError`` as any writing does. Threads may call it at a time.
        """
        whole = len(data) - len(data) % ALIGNMENT
        written = 0
        while written < whole and not self._refused:
            size = min(_MOVED, whole - written)
            block = self._memory()[:size]
            block[:] = data[written : written + size]
            try:
                count = os.pwrite(self._fd, block, offset + written)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self._refused = True
                break
            count -= count % ALIGNMENT
            if not count:
                break
            written += count
        return written

    def close(self) -> None:
        """Close it, once nothing writes any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _memory(self) -> memoryview:
        """Memory of this thread's that begins with a page."""
        if not hasattr(self._here, "memory"):
            self._here.memory = memoryview(mmap.mmap(-1, _MOVED))
        memory: memoryview = self._here.memory
        return memory
