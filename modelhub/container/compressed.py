"""Compressed files: unpacked into memory, within bounds, and opened as what they hold.

``joblib.load`` takes them, and people pack downloads. Several streams in a row are one file to what unpacks them, and
here.
"""

from __future__ import annotations

import os.path
import zlib
from collections.abc import Callable
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.container.nesting import MAX_INNER, MAX_PREFIX, Nesting, Part, open_inside
from modelhub.container.sniff import KINDS
from modelhub.container.unpackers import Inflater, Unpacker, is_bomb, unpackers
from modelhub.errors import MissingExtra
from modelhub.source import BytesSource, Source

_CHUNK = 1 << 16
_MAX_STREAMS = 1000
_MAX_GZIP_HEADER = 1 << 20
_ZFILE = 21  # bytes that joblib before 0.10 began a file with: "ZF" and the unpacked size in hexadecimal
_EXTENSIONS = (".gz", ".bz2", ".xz", ".lzma", ".zlib", ".z", ".lz4", ".zst")


class _Unpacked(NamedTuple):
    data: bytes
    whole: bool
    anomalies: tuple[Anomaly, ...]


def read_compressed(source: Source, kind: str, nesting: Nesting) -> Container:
    """Open a compressed file of *kind* (one of :data:`~modelhub.container.sniff.COMPRESSED`) and the file in it."""
    try:
        fresh = unpackers(kind)
    except MissingExtra as missing:
        message = f"{KINDS[kind]}, which is not examined: {missing} ({missing.hint})"
        odd = Anomaly("container.not-examined", message)
        return Container(kind, source.name, source, anomalies=(odd,), skipped=(Skipped(message),))
    packed = source if source.read_at(0, 2) != b"ZF" else _behind_zfile(source)
    limit = min(MAX_INNER, nesting.left["unpacked"])
    unpacked = _unpack(packed, fresh, limit)
    if kind == "gzip" and not unpacked.data:
        unpacked = _unpack_gzip(source, limit) or unpacked
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


def _unpack(source: Source, fresh: Callable[[], Unpacker], limit: int) -> _Unpacked:
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
            unused = stream.unused_data or b""
            waiting = unused + source.read_at(position, max(0, 16 - len(unused)))
            position += len(waiting) - len(unused)
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
        if is_bomb(position, len(out)):
            message = f"{position} compressed bytes unpack to more than {len(out)}"
            anomalies.append(Anomaly("compressed.bomb", message))
            whole = False
            break
        if len(out) > limit:
            whole = False
            break
    return _Unpacked(bytes(out[:limit]), whole, tuple(anomalies))


def _unpack_gzip(source: Source, limit: int) -> _Unpacked | None:
    """The same of a gzip file whose header only Python's ``gzip`` accepts: it looks at no more than it needs.

    It passes over the header's checksum and reserved flags. Such a file is broken, and loaded all the same.
    """
    head = source.read_at(0, _MAX_GZIP_HEADER)
    flags = head[3] if len(head) > 3 else 0
    at = 10
    if flags & 4:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for text in (8, 16):
        if flags & text:
            at = head.find(b"\0", at) + 1
            if not at:
                return None
    if flags & 2:
        at += 2
    unpacked = _unpack(Part(source, source.name, at, source.size), lambda: Inflater(-zlib.MAX_WBITS), limit)
    if not unpacked.data:
        return None
    odd = Anomaly("compressed.broken", "the gzip header is broken, but Python reads on behind it", offset=0)
    return _Unpacked(unpacked.data, unpacked.whole, (odd,))


def _behind_zfile(source: Source) -> Source:
    """The data of an old file of joblib's, whose size may be one character longer (``numpy_pickle_compat.py``)."""
    start = _ZFILE + (source.read_at(_ZFILE, 1) == b" ")
    return Part(source, source.name, start, source.size)


def _rest(source: Source, position: int) -> bool:
    """Whether anything but zeros, with which archivers pad, follows *position*."""
    while block := source.read_at(position, _CHUNK):
        if block.strip(b"\0"):
            return True
        position += len(block)
    return False
