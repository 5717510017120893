"""Reading a file once for two threads: what one of them reads, the other takes as well, and reads itself what is left.

The one copies, or compares, in an order of its own; the other wants all bytes in their order, for a digest. Where the
two agree, which they mostly do, nothing is read twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from modelhub.convert.background import BLOCK, Stopped, block_buffer, blocks
from modelhub.errors import ChangedDuringRead
from modelhub.source import Source

_LEAST = 64 << 10
"""Bytes: handing fewer on takes longer than reading them once more."""


class _Offer(NamedTuple):
    what: object
    offset: int
    data: memoryview

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Feed:
    """Blocks on their way from the thread that reads them to the one that wants all in order.

    The former calls :meth:`hand` and in the end :meth:`close`, the latter :meth:`reader` and in the end :meth:`leave`:
    whoever of them is gone, the other goes on alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._offer: _Offer | None = None
        self._closed = False
        self._left = False

    def hand(self, what: object, offset: int, data: memoryview | bytes) -> bool:
        """Lend *data*, the bytes of *what* from *offset* on, until the next is lent; say whether it was: a few bytes
        are not, nor any that nobody wants.

        Waits until what was lent before is not needed any more.
        """
        if len(data) < _LEAST:
            return False
        with self._changed:
            self._changed.wait_for(lambda: self._offer is None or self._left)
            if self._left or self._closed:
                return False
            self._offer = _Offer(what, offset, memoryview(data))
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Nothing more is handed on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def reader(
        self, what: object, source: Source, stopped: Stopped
    ) -> Callable[[int, int], Iterator[tuple[int, memoryview]]]:
        """What gives the bytes from one offset to another of *source*, which is handed on as *what*, as
        :func:`~modelhub.convert.background.blocks` does."""
        buffer = block_buffer()

        def read(start: int, end: int) -> Iterator[tuple[int, memoryview]]:
            position = start
            while position < end and not stopped.is_set():
                offer = self._next(what, position)
                until = end if offer is None else min(max(position, offer.offset), end)
                yield from blocks(source, position, until, stopped, buffer)
                position = until
                if offer is not None and position < end:
                    data = offer.data[position - offer.offset : end - offer.offset]
                    yield position, data
                    position += len(data)

        return read

    def leave(self) -> None:
        """Nothing more is wanted."""
        with self._changed:
            self._left = True
            self._offer = None
            self._changed.notify_all()

    def _next(self, what: object, position: int) -> _Offer | None:
        """Wait for bytes of *what* behind *position*; ``None`` where no more are handed on."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._offer is not None or self._closed)
                offer = self._offer
                if offer is None or (offer.what == what and offer.end > position):
                    return offer
                self._offer = None
                self._changed.notify_all()


class Memory:
    """Memory that blocks are read into: another one while one is lent to a :class:`Feed`."""

    def __init__(self, feed: Feed | None = None, nbytes: int = BLOCK) -> None:
        """*feed*: what is read is handed on. No more than *nbytes* are read at a time."""
        self._feed = feed
        self._buffers = [memoryview(bytearray(nbytes)) for _ in range(1 if feed is None else 2)]
        self._turn = 0

    def read(self, source: Source, offset: int, nbytes: int, what: object = None) -> memoryview:
        """*nbytes* of *source* from *offset* on, valid until the next call.

        They are handed on as the bytes of *what*; where that is ``None``, they are not. Raises
        :class:`ChangedDuringRead` for a source that ends before.
        """
        block = self._buffers[self._turn][:nbytes]
        if source.readinto_at(offset, block) != nbytes:
            raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
        if self._feed is not None and what is not None and self._feed.hand(what, offset, block):
            self._turn = 1 - self._turn
        return block
