"""Compressed files: unpacked into memory, within bounds, and opened as what they hold.

gzip, bzip2, xz, LZMA and zlib are what Python's own modules unpack, and so what ``joblib.load`` takes. Several streams
in a row are one file to those modules, and here.
"""

from __future__ import annotations

import os.path
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.container.nesting import MAX_INNER, MAX_PREFIX, Nesting, open_inside
from modelhub.source import BytesSource, Source

_CHUNK = 1 << 16
_MAX_STREAMS = 1000
_MAX_RATIO = 1100
"""What no deflated data reaches (1032 is the most, of zeros); tensors never come near it."""
_RATIO_FROM = 1 << 20
_EXTENSIONS = (".gz", ".bz2", ".xz", ".lzma", ".zlib", ".z")


class _Unpacked(NamedTuple):
    data: bytes
    whole: bool
    anomalies: tuple[Anomaly, ...]


def read_compressed(source: Source, kind: str, nesting: Nesting) -> Container:
    """Open a compressed file of *kind* (``gzip``, ``bz2``, ``xz``, ``lzma`` or ``zlib``) and the file in it."""
    limit = min(MAX_INNER, nesting.left["unpacked"])
    unpacked = _unpack(source, streams_of(kind), limit)
    nesting.left["unpacked"] -= len(unpacked.data)
    data = unpacked.data if unpacked.whole else unpacked.data[:MAX_PREFIX]
    stem, extension = os.path.splitext(os.path.basename(source.name))
    member = stem if stem and extension.lower() in _EXTENSIONS else "unpacked"
    inner = open_inside(BytesSource(member, data), member, nesting, whole=unpacked.whole)
    skipped = inner.skipped
    if any(odd.rule == "compressed.broken" for odd in unpacked.anomalies):
        skipped = (*skipped, Skipped("the compressed data is broken, so not all of it could be unpacked"))
    return Container(
        kind,
        source.name,
        source,
        pickles=inner.pickles,
        anomalies=(*unpacked.anomalies, *inner.anomalies),
        skipped=skipped,
    )


def streams_of(kind: str) -> Callable[[], Any]:
    """What makes a fresh unpacker of *kind*, with the interface of :class:`bz2.BZ2Decompressor`."""
    if kind == "bz2":
        import bz2

        return bz2.BZ2Decompressor
    if kind in ("xz", "lzma"):
        import lzma

        form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
        return lambda: lzma.LZMADecompressor(form, memlimit=256 << 20)
    return lambda: _Inflater(31 if kind == "gzip" else 15)


class _Inflater:
    """zlib's decompressor with the interface of those of ``bz2`` and ``lzma``."""

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


def _unpack(source: Source, fresh: Callable[[], Any], limit: int) -> _Unpacked:
    """The first *limit* unpacked bytes of *source*, and whether they are all."""
    out = bytearray()
    anomalies: list[Anomaly] = []
    position = 0
    waiting = b""
    stream = fresh()
    streams = 1
    whole = True
    while True:
        if stream.eof:
            waiting = stream.unused_data + source.read_at(position, max(0, 16 - len(stream.unused_data)))
            position += max(0, len(waiting) - len(stream.unused_data))
            if not waiting.strip(b"\0") and not _rest(source, position):
                break
            stream, streams = fresh(), streams + 1
            if streams > _MAX_STREAMS:
                whole = False
                anomalies.append(Anomaly("compressed.limit", "too many compressed streams follow each other"))
                break
        elif stream.needs_input and not waiting:
            waiting = source.read_at(position, _CHUNK)
            position += len(waiting)
            if not waiting:
                anomalies.append(Anomaly("compressed.broken", "the compressed data ends too early", offset=position))
                break
        try:
            out += stream.decompress(waiting, limit + 1 - len(out))
        except Exception as error:  # zlib.error, OSError, EOFError, lzma.LZMAError, MemoryError of a huge dictionary
            at = position - len(waiting)
            if streams > 1:
                message = "bytes that are not compressed data follow the compressed data"
                anomalies.append(Anomaly("compressed.trailing-bytes", message, offset=at))
            else:
                message = f"the compressed data cannot be unpacked: {error}"[:200]
                anomalies.append(Anomaly("compressed.broken", message, offset=at))
            break
        waiting = b""
        if len(out) > max(_RATIO_FROM, position * _MAX_RATIO):
            message = f"{position} compressed bytes unpack to more than {_MAX_RATIO} times as many"
            anomalies.append(Anomaly("compressed.bomb", message))
            whole = False
            break
        if len(out) > limit:
            whole = False
            break
    return _Unpacked(bytes(out[:limit]), whole, tuple(anomalies))


def _rest(source: Source, position: int) -> bool:
    """Whether anything but zeros, with which archivers pad, follows *position*."""
    while block := source.read_at(position, _CHUNK):
        if block.strip(b"\0"):
            return True
        position += len(block)
    return False
