"""What unpacks compressed bytes, whatever packed them: one interface, that of :class:`bz2.BZ2Decompressor`.

gzip, bzip2, xz, LZMA and zlib are what Python's own modules unpack. Zstandard is in the standard library from 3.14 on;
before, and for LZ4, a package is needed that ``modelhub[archives]`` brings.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from modelhub.errors import MissingExtra

_MOST_RATIO = 1100
"""What no deflated data reaches (1032 is the most, of zeros); tensors never come near it."""

_RATIO_FROM = 1 << 20
_MOST_MEMORY = 256 << 20
_MOST_WINDOW = 27  # of Zstandard, as a power of two: what its own tools unpack without being asked for more


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether *packed* bytes have become so many that they were made to exhaust who unpacks them."""
    return unpacked > max(_RATIO_FROM, packed * _MOST_RATIO)


class Unpacker(Protocol):
    """One stream that is unpacked piece by piece; raises one of many errors for broken data."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended; what was given beyond its end is ``unused_data``."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no more to be had without more data."""

    @property
    def unused_data(self) -> bytes | None:
        """What follows the stream; may be ``None`` before its end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most *max_length* more bytes of what *data*, and what was given before, unpacks to."""


def unpackers(kind: str) -> Callable[[], Unpacker]:
    """What makes a fresh unpacker for a stream of *kind*, one of :data:`~modelhub.container.sniff.COMPRESSED`.

    Raises :class:`MissingExtra` where that takes a package that is not installed.
    """
    if kind == "bz2":
        import bz2

        return bz2.BZ2Decompressor
    if kind in ("xz", "lzma"):
        import lzma

        form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
        return lambda: lzma.LZMADecompressor(form, memlimit=_MOST_MEMORY)
    if kind == "lz4":
        return _lz4()
    if kind == "zstd":
        return _zstd()
    return lambda: Inflater(31 if kind == "gzip" else 15)


def zip_unpacker(method: int, packed: bytes) -> tuple[Unpacker, bytes]:
    """What unpacks a zip member of *method*, and what of its first bytes *packed* it is to be given (APPNOTE 4.4.5).

    Raises :class:`KeyError` for an unknown method, :class:`MissingExtra`, or whatever error bytes give that are not
    packed by that method.
    """
    if method == 14:  # LZMA: two bytes of version, two of the settings' length, the settings
        import lzma

        settings = packed[4 : 4 + int.from_bytes(packed[2:4], "little")]
        chain = [lzma_filter(settings, len(packed) << 10)]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain), packed[4 + len(settings) :]
    if method == 8:
        return Inflater(-zlib.MAX_WBITS), packed
    return unpackers({12: "bz2", 93: "zstd", 95: "xz"}[method])(), packed


def lzma_filter(settings: bytes, size: int) -> dict[str, int]:
    """liblzma's filter for LZMA with *settings* as its files have them, for no more than *size* unpacked bytes."""
    import lzma

    if len(settings) != 5:
        raise ValueError("no dictionary's size")
    rest, lc = divmod(settings[0], 9)
    pb, lp = divmod(rest, 5)
    dictionary = bounded_dictionary(int.from_bytes(settings[1:], "little"), size)
    return {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}


def bounded_dictionary(size: int, unpacked: int) -> int:
    """The size of a dictionary, which need not be larger than the *unpacked* bytes."""
    return max(4096, min(size, unpacked, _MOST_MEMORY))


class Inflater:
    """zlib's decompressor with the interface of those of ``bz2`` and ``lzma``; *window_bits* are zlib's."""

    def __init__(self, window_bits: int) -> None:
        self._stream = zlib.decompressobj(window_bits)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


def _lz4() -> Callable[[], Unpacker]:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError:
        raise MissingExtra("lz4", "archives") from None
    made: Callable[[], Unpacker] = LZ4FrameDecompressor
    return made


def _zstd() -> Callable[[], Unpacker]:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise MissingExtra("backports.zstd", "archives") from None
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MOST_WINDOW}
    return lambda: zstd.ZstdDecompressor(options=options)
