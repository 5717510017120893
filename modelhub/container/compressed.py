"""Compressed files: unpacked into memory, within bounds, and opened as what they hold.

``joblib.load`` takes them, and people pack downloads. Several streams in a row are one file to what unpacks them, and
here.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.container.nesting import MAX_INNER, MAX_PREFIX, Nesting, open_inside
from modelhub.container.sniff import KINDS
from modelhub.container.unpackers import Unpacker, is_bomb, unpackers
from modelhub.errors import MissingExtra
from modelhub.source import BytesSource, Source

_CHUNK = 1 << 16
_MAX_STREAMS = 1000
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
    limit = min(MAX_INNER, nesting.left["unpacked"])
    unpacked = _unpack(source, fresh, limit)
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


def _rest(source: Source, position: int) -> bool:
    """Whether anything but zeros, with which archivers pad, follows *position*."""
    while block := source.read_at(position, _CHUNK):
        if block.strip(b"\0"):
            return True
        position += len(block)
    return False
