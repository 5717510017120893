"""The bytes of a pickle program, a window of them at a time, so that a program of any length is read in flat memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from modelhub.anomalies import Anomaly
from modelhub.pickles.values import Blob, LiteralKind
from modelhub.source import Source

SIZE = 1 << 18
"""Bytes of a window."""

LONGEST_LINE = 1 << 16
"""Bytes of a name or number written as text; what picklers write is far shorter."""

LONGEST_TEXT = 4 << 20
"""Bytes of a string written as text: protocol 0 has a whole array in one."""

_HEADROOM = 64
_PADDING = bytes(16)


class Broken(Exception):
    """The program cannot be followed any further; ``cut`` is a line that the end of the file cuts off."""

    def __init__(self, anomaly: Anomaly, cut: bytes | None = None) -> None:
        self.anomaly = anomaly
        self.cut = cut


def fail(rule: str, message: str, at: int) -> NoReturn:
    """State an anomaly after which the program cannot be followed."""
    raise Broken(Anomaly(rule, message, None, at))


class Window:
    """A moving window on the program that begins at *start* and may reach to *end*.

    ``base`` is the absolute offset of the window ``buf``, which holds ``size`` bytes and a few zeros after them, so
    that the fixed part of an opcode that begins in it can be read; ``soft`` is the position at which to ask
    :meth:`look_up` for more: near the window's end or, before it, where the present frame ends (``frame_end``,
    absolute, ``None`` outside of frames). *on_load* is told the bytes used so far and the offset, whenever it moves.
    """

    __slots__ = ("_on_load", "_used", "_window_soft", "base", "buf", "end", "frame_end", "size", "soft", "source")

    def __init__(self, source: Source, start: int, end: int, on_load: Callable[[int, int], None]) -> None:
        self.source = source
        self.end = end
        self.base = start
        self.buf = b""
        self.size = 0
        self.soft = 0
        self.frame_end: int | None = None
        self._window_soft = 0
        self._used = 0
        self._on_load = on_load
        self.load(start, SIZE)

    def load(self, at: int, want: int, used: int = 0) -> None:
        """Begin the window at absolute offset *at* and have it hold *want* bytes, or all that are left.

        *used* is how many bytes of the present window the program has used.
        """
        self._used += used
        self._on_load(self._used, at)
        want = max(0, min(want, self.end - at))
        data = self.source.read_at(at, want)
        self.base = at
        self.size = len(data)
        self.buf = data + _PADDING
        if self.size < want:
            self.end = at + self.size
        self._window_soft = self.size if at + self.size >= self.end else self.size - _HEADROOM
        self._heed_frame()

    def begin_frame(self, end: int) -> None:
        """A frame ends at the absolute offset *end*."""
        self.frame_end = end
        self._heed_frame()

    def look_up(self, pos: int) -> tuple[int, bool]:
        """Go on from *pos*, which has come to ``soft``: the new position, and whether an opcode crossed its frame."""
        at = self.base + pos
        crossed = False
        if self.frame_end is not None and at >= self.frame_end:
            crossed = at > self.frame_end
            self.frame_end = None
            self._heed_frame()
            if pos < self.soft:
                return pos, crossed
        if at >= self.end:
            fail("pickle.truncated", "the pickle ends before its STOP opcode", self.end)
        self.load(at, SIZE, pos)
        return 0, crossed

    def line(self, pos: int, longest: int = LONGEST_LINE) -> tuple[bytes, int]:
        """The bytes from *pos* up to the next newline, at most *longest*, and the position after it."""
        newline = self.buf.find(b"\n", pos, self.size)
        if newline < 0 and self.base + self.size < self.end:
            at = self.base + pos
            self.load(at, max(SIZE, self._length(at, longest) + _HEADROOM), pos)
            pos = 0
            newline = self.buf.find(b"\n", 0, self.size)
        if newline < 0 or newline - pos > longest:
            cut = self.buf[pos : self.size] if newline < 0 and self.size - pos <= longest else None
            odd = Anomaly("pickle.truncated", "a text argument has no end", None, self.base + min(pos, self.size))
            raise Broken(odd, cut)
        return self.buf[pos:newline], newline + 1

    def _length(self, at: int, longest: int) -> int:
        """Bytes of the line at absolute offset *at*, with its newline; 0 where it has none, or is over *longest*."""
        for begin in range(at, min(at + longest + 1, self.end), SIZE):
            found = self.source.read_at(begin, min(SIZE, self.end - begin)).find(b"\n")
            if found >= 0:
                return begin + found + 1 - at
        return 0

    def literal(self, pos: int, length: int, kind: LiteralKind, longest: int) -> tuple[bytes | Blob, int]:
        """The *length* bytes at *pos*, kept when they are *longest* at most, and the position after them."""
        at = self.base + pos
        if length > self.end - at:
            fail("pickle.truncated", f"a literal of {length} bytes reaches past the end", min(at, self.end))
        if length > longest:
            self.load(at + length, SIZE, pos)
            return Blob(kind, at, length), 0
        if pos + length > self.size:
            self.load(at, max(SIZE, length + _HEADROOM), pos)
            pos = 0
        return self.buf[pos : pos + length], pos + length

    def _heed_frame(self) -> None:
        self.soft = self._window_soft
        if self.frame_end is not None:
            self.soft = min(self.soft, max(0, self.frame_end - self.base))
