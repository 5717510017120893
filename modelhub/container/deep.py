"""The deep check: every byte of a file read once, and every checksum in it compared, in flat memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container
from modelhub.container.sniff import COMPRESSED
from modelhub.container.unpackers import is_bomb, unpackers
from modelhub.container.zip_walk import Member, walk_zip
from modelhub.errors import MissingExtra
from modelhub.source import Source

_CHUNK = 1 << 20
_MAX_TOLD = 20
_ZIP_KINDS = frozenset({"zip", "torch-zip", "torchscript"})

Progress = Callable[[int], None]


def deep_check(container: Container, progress: Progress | None = None) -> tuple[Anomaly, ...]:
    """Read every byte of *container* (of every file of a folder) and check the checksums that it brings along.

    What opening it has checked already is checked again, so some of the anomalies may be known: ``zip.crc``,
    ``zip.no-crc``, ``zip.deflate``, ``zip.size-mismatch``, ``zip.truncated``, ``compressed.broken`` and
    ``container.truncated``, for a file that has become shorter. *progress* is told bytes of the file as they are read.
    Raises :class:`~modelhub.errors.SourceError` when the bytes cannot be had; never for what they say.
    """
    found: list[Anomaly] = []
    for relative, part in container.files():
        assert part.source is not None
        for odd in _check(part.kind, part.source, progress):
            inside = odd.member if relative is None else f"{relative}!{odd.member}" if odd.member else relative
            found.append(odd if inside is None else odd.inside(inside))
    told: list[Anomaly] = []
    for rule in dict.fromkeys(odd.rule for odd in found):
        alike = [odd for odd in found if odd.rule == rule]
        told += alike[:_MAX_TOLD]
        if len(alike) > _MAX_TOLD:
            told.append(Anomaly(rule, f"and {len(alike) - _MAX_TOLD} more of the same"))
    return tuple(told)


def _check(kind: str, source: Source, progress: Progress | None) -> Iterator[Anomaly]:
    archive = walk_zip(source) if kind in _ZIP_KINDS else None
    if archive is not None:
        reached = 0
        for member in sorted(archive.members, key=lambda each: each.start):
            _tell(progress, member.start - reached)
            yield from _check_member(source, member, progress)
            reached = max(reached, member.end)
        _tell(progress, source.size - reached)
        return
    if kind in COMPRESSED:
        yield from _check_compressed(kind, source, progress)
        return
    length = sum(map(len, _chunks(source, 0, source.size, progress)))
    if length < source.size:
        yield Anomaly("container.truncated", f"only {length} of {source.size} bytes could be read", offset=length)


def _check_member(source: Source, member: Member, progress: Progress | None) -> Iterator[Anomaly]:
    """Size and checksum of a member, unpacked piece by piece."""
    crc = length = read = 0
    stream: Any = None if member.stored else zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in _chunks(source, member.start, member.packed, progress):
            read += len(chunk)
            for piece in [chunk] if stream is None else _inflated(stream, chunk):
                crc = zlib.crc32(piece, crc)
                length += len(piece)
            if length > member.size:
                break
    except zlib.error as error:
        yield Anomaly("zip.deflate", f"the member cannot be unpacked: {error}", member.name)
        return
    if read < member.packed and length <= member.size:
        yield Anomaly("zip.truncated", f"only {read} of its {member.packed} bytes are there", member.name)
    elif length != member.size:
        more = "more than" if length > member.size else f"{length} instead of"
        yield Anomaly("zip.size-mismatch", f"the member has {more} the {member.size} bytes announced", member.name)
    elif member.crc == 0 and crc:
        yield Anomaly("zip.no-crc", "the member has no checksum", member.name)
    elif crc != member.crc:
        yield Anomaly("zip.crc", "the member's bytes do not match its checksum", member.name)


def _inflated(stream: Any, packed: bytes) -> Iterator[bytes]:
    """What *packed* unpacks to, at most a chunk at a time."""
    while packed and not stream.eof:
        yield stream.decompress(packed, _CHUNK)
        packed = stream.unconsumed_tail


def _check_compressed(kind: str, source: Source, progress: Progress | None) -> Iterator[Anomaly]:
    """Whether a compressed file unpacks to its end, which is where its checksum stands."""
    try:
        fresh = unpackers(kind)
    except MissingExtra:
        return  # opening it has said so
    stream = fresh()
    packed = unpacked = 0
    for chunk in _chunks(source, 0, source.size, progress):
        waiting = chunk
        packed += len(chunk)
        try:
            while waiting or not (stream.eof or stream.needs_input):
                if stream.eof:
                    if not waiting.strip(b"\0"):
                        break
                    stream = fresh()
                unpacked += len(stream.decompress(waiting, _CHUNK))
                if is_bomb(packed, unpacked):
                    message = f"{packed} compressed bytes unpack to more than {unpacked}"
                    yield Anomaly("compressed.bomb", message)
                    return
                waiting = (stream.unused_data or b"") if stream.eof else b""
        except Exception as error:  # zlib.error, OSError, EOFError, lzma.LZMAError
            yield Anomaly("compressed.broken", f"the compressed data cannot be unpacked: {error}"[:200])
            return
    if not stream.eof:
        yield Anomaly("compressed.broken", "the compressed data ends too early", offset=source.size)


def _chunks(source: Source, start: int, length: int, progress: Progress | None) -> Iterator[bytes]:
    """The *length* bytes at *start*, fewer where the source ends."""
    with suppress(OverflowError):
        while length > 0 and (chunk := source.read_at(start, min(_CHUNK, length))):
            _tell(progress, len(chunk))
            yield chunk
            start += len(chunk)
            length -= len(chunk)


def _tell(progress: Progress | None, count: int) -> None:
    if progress is not None and count > 0:
        progress(count)
