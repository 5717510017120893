"""A strict walk through a zip archive: every byte belongs to one member or to the directory, or is an anomaly.

Every member's local header is read and compared with the central directory, because some loaders believe the one and
some the other. Nothing here reads a member's data except :func:`read_member`, which is bounded.

Behind a network that would be a request for each of thousands of headers. There, the headers of storages (which no
loader that goes by the directory asks for more than where the storage's bytes begin) are told by the layout that torch
writes, where that leaves no byte over, and ``zip.headers-inferred`` says so.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.zip_directory import (
    DEFLATED,
    DESCRIPTOR,
    ENCRYPTED,
    STORED,
    ZIP64,
    Directory,
    Entry,
    extra_fields,
    read_directory,
    widen,
)
from modelhub.source import Source, at_hand, is_distant
from modelhub.tensors import Packing

LOCAL = struct.Struct("<4s5H3L2H")
_NARROW, _WIDE = struct.Struct("<3L"), struct.Struct("<L2Q")
LOCAL_MAGIC = b"PK\3\4"
DESCRIPTOR_MAGIC = b"PK\7\10"
_USUAL_EXTRA = 72  # torch pads a member's data to a multiple of 64 bytes
_U32 = 0xFFFFFFFF
_WINDOW = 224
_STORAGE_NAME = re.compile(rb"[^/]+/data/[0-9]+")
_ALIGNMENT = 64
_MOST_EXTRA = 4 + 24 + _ALIGNMENT - 1  # torch's padding field, and the numbers of zip64 before it
_CHUNK = 1 << 16


class Member(NamedTuple):
    """A member whose data lies in the archive from ``start`` (absolute) for ``packed`` bytes, ``size`` unpacked."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    start: int

    @property
    def stored(self) -> bool:
        """Whether the bytes lie in the archive as they are."""
        return self.method == STORED

    @property
    def end(self) -> int:
        return self.start + self.packed


class Archive(NamedTuple):
    """The members that can be read, in directory order, every departure from the strict format, and what cannot.

    ``whole`` is false when the directory could not be read to its end. ``foreign`` are the unreadable members
    whose bytes are there: other loaders may know how they are packed, or pass over that they are said to be encrypted.
    """

    members: tuple[Member, ...]
    anomalies: tuple[Anomaly, ...]
    unreadable: tuple[str, ...] = ()
    whole: bool = True
    foreign: tuple[Member, ...] = ()


def walk_zip(source: Source) -> Archive | None:
    """Walk the zip *source*; ``None`` when it has no end record, as a download that was cut off."""
    directory = read_directory(source)
    if directory is None:
        return None
    anomalies = list(directory.anomalies)
    starts = dict(_check_layout(source, directory, anomalies))
    members: list[Member] = []
    unreadable: list[str] = []
    foreign: list[Member] = []
    for index, entry in enumerate(directory.entries):
        start = starts.get(index)
        if start is None or entry.flags & ENCRYPTED or entry.method not in (STORED, DEFLATED):
            unreadable.append(entry.name)
            if start is not None:
                foreign.append(Member(entry.name, entry.method, entry.crc, entry.packed, entry.size, start))
        else:
            members.append(Member(entry.name, entry.method, entry.crc, entry.packed, entry.size, start))
    return Archive(tuple(members), tuple(anomalies), tuple(unreadable), directory.whole, tuple(foreign))


class _Window:
    """Small reads that go forward: the end of a member and the header of the next one are one system call."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.start = 0
        self.data = b""

    def read(self, offset: int, length: int) -> bytes:
        at = offset - self.start
        if at < 0 or at + length > len(self.data):
            self.start, at = offset, 0
            self.data = self.source.read_at(offset, max(length, _WINDOW))
        return self.data[at : at + length]


def _check_layout(source: Source, directory: Directory, anomalies: list[Anomaly]) -> Iterator[tuple[int, int]]:
    """``(index of entry, start of its data)``, checking that members lie one after the other without a gap."""
    window = _Window(source)
    far = is_distant(source)
    reached = inferred = 0
    order = sorted(range(len(directory.entries)), key=lambda i: directory.entries[i].header)
    follows = [directory.entries[index].header for index in order[1:]]
    for index, following in zip(order, [*follows, directory.start], strict=False):
        entry = directory.entries[index]
        if entry.header < reached:
            message = "the member lies over the one before it"
            anomalies.append(Anomaly("zip.overlap", message, entry.name))
        elif entry.header > reached:
            message = f"{entry.header - reached} bytes belong to no member"
            anomalies.append(Anomaly("zip.gap", message, offset=reached))
        start = None
        if far:
            head = LOCAL.size + len(entry.raw_name) + _MOST_EXTRA
            if not (at_hand(source, entry.header, head) and at_hand(source, following - 24, 24)):
                start = _inferred_start(entry, following)
        if start is not None:
            inferred += 1
            yield index, start
            reached = max(reached, following)
            continue
        start = _check_local(window, entry, anomalies)
        if start is None:
            reached = max(reached, entry.header + LOCAL.size + len(entry.raw_name) + entry.packed)
            continue
        end = start + entry.packed
        if end > directory.start:
            message = "the member runs into the central directory"
            anomalies.append(Anomaly("zip.overlap", message, entry.name))
            if end > source.size:
                continue
        yield index, start
        reached = max(reached, end + _descriptor_size(window, entry, end, max(0, following - end), anomalies))
    if reached < directory.start and (directory.whole or directory.entries):
        message = f"{directory.start - reached} bytes before the directory belong to no member"
        anomalies.append(Anomaly("zip.gap", message, offset=reached))
    if inferred:
        message = f"the own headers of {inferred} storages were told by torch's layout, and not read from a distance"
        anomalies.append(Anomaly("zip.headers-inferred", message))


def _inferred_start(entry: Entry, following: int) -> int | None:
    """Where the bytes of a storage begin by the layout that torch writes, in which they are aligned and the *following*
    header comes right after them and their descriptor; ``None`` for what is no storage or does not fit.

    Source: torch 2.13, ``getPadding`` in ``caffe2/serialize/inline_container.cc``, and its miniz 3.0.2
    (``mz_zip_writer_add_mem_ex_v2``), whose descriptors have 16 bytes, or 24 with numbers of zip64.
    """
    described = bool(entry.flags & DESCRIPTOR)
    plain = entry.method == STORED and entry.packed == entry.size and not entry.flags & ENCRYPTED
    if not plain or not _STORAGE_NAME.fullmatch(entry.raw_name):
        return None
    for descriptor in (16, 24) if described else (0,):
        start = following - descriptor - entry.packed
        extra = start - entry.header - LOCAL.size - len(entry.raw_name)
        if start % _ALIGNMENT == 0 and 4 <= extra <= _MOST_EXTRA:
            return start
    return None


def _check_local(window: _Window, entry: Entry, anomalies: list[Anomaly]) -> int | None:
    """Compare *entry* with the header in front of its data; the absolute offset of the data, ``None`` without one."""
    head = LOCAL.size + len(entry.raw_name)
    block = window.read(entry.header, head + _USUAL_EXTRA) if entry.header >= 0 else b""
    if len(block) < LOCAL.size or not block.startswith(LOCAL_MAGIC):
        message = "no member begins where the directory says"
        anomalies.append(Anomaly("zip.local-header", message, entry.name))
        return None
    _, _, flags, method, _, _, crc, packed, size, name_len, extra_len = LOCAL.unpack_from(block)
    start: int = entry.header + LOCAL.size + name_len + extra_len
    if name_len + extra_len > len(block) - LOCAL.size:
        block = window.read(entry.header, LOCAL.size + name_len + extra_len)
    name_end = LOCAL.size + name_len
    raw_name = block[LOCAL.size : name_end]
    extra = block[name_end : name_end + extra_len]
    fields = extra_fields(extra, entry.name, anomalies) if extra else {}
    if _U32 in (size, packed):
        size, packed = widen(fields.get(ZIP64, b""), (size, packed)) or (size, packed)

    if flags & DESCRIPTOR and crc == packed == size == 0:
        if raw_name == entry.raw_name and method == entry.method and flags == entry.flags:
            return start
        crc, packed, size = entry.crc, entry.packed, entry.size
    here = (raw_name, method, flags, crc, packed, size)
    there = (entry.raw_name, entry.method, entry.flags, entry.crc, entry.packed, entry.size)
    if here != there:
        labels = ("name", "method", "flags", "CRC", "packed size", "size")
        differ = [f"{k} {a!r} / {b!r}" for k, a, b in zip(labels, here, there, strict=True) if a != b]
        message = "the member's own header and the directory contradict each other"
        anomalies.append(Anomaly("zip.header-mismatch", message, entry.name, None, "; ".join(differ)[:400]))
    return start


def _descriptor_size(window: _Window, entry: Entry, end: int, room: int, anomalies: list[Anomaly]) -> int:
    """Bytes of the data descriptor after the member's data; 0 without one (APPNOTE 4.3.9).

    It has a signature or not, and numbers of 4 or 8 bytes; the form that fills the *room* to the next header wins.
    """
    if not entry.flags & DESCRIPTOR:
        return 0
    block = window.read(end, 24)
    lead = 4 if block.startswith(DESCRIPTOR_MAGIC) else 0
    sizes: list[int] = []
    fits = max(entry.packed, entry.size) <= _U32
    if fits and block.startswith(_NARROW.pack(entry.crc, entry.packed, entry.size), lead):
        sizes.append(lead + 12)
    if room not in sizes and block.startswith(_WIDE.pack(entry.crc, entry.packed, entry.size), lead):
        sizes.append(lead + 20)
    if room in sizes:
        return room
    if not sizes and entry.crc == entry.packed == entry.size == 0:
        return 0
    if not sizes:
        message = "the numbers after the member's data contradict the directory"
        anomalies.append(Anomaly("zip.data-descriptor", message, entry.name))
        return min(room, lead + 20)
    return sizes[0]


def read_member(source: Source, member: Member, limit: int, anomalies: list[Anomaly]) -> bytes | None:
    """The unpacked bytes of *member*; ``None`` when there are more than *limit*, which nothing makes it exceed.

    Where they are not what the archive announces, the bytes are those that torch would go on with, and the difference
    is added to *anomalies* (``zip.limit``, ``zip.bomb``, ``zip.deflate``, ``zip.size-mismatch``, ``zip.crc``,
    ``zip.no-crc``).
    """
    if member.size > limit or (member.stored and member.packed > limit):
        message = f"the member has {max(member.size, member.packed)} bytes, of which at most {limit} are read"
        anomalies.append(Anomaly("zip.limit", message, member.name))
        return None
    if member.stored:
        data = source.read_at(member.start, member.packed)
    else:
        data = _inflate(source, member, anomalies)
    if len(data) != member.size:
        message = f"the member has {len(data)} bytes instead of the {member.size} announced"
        anomalies.append(Anomaly("zip.size-mismatch", message, member.name))
    if member.crc == 0 and data and zlib.crc32(data):
        anomalies.append(Anomaly("zip.no-crc", "the member has no checksum", member.name))
    elif zlib.crc32(data) != member.crc:
        message = "the member's bytes do not match its checksum"
        anomalies.append(Anomaly("zip.crc", message, member.name))
    return data


def packing_of(member: Member) -> Packing | None:
    """How the bytes of *member* lie in the archive, ``None`` for one that is stored as it is.

    A checksum of 0 is what torch writes for one that it did not compute.
    """
    return None if member.stored else Packing("deflate", member.packed, member.crc or None)


def peek_member(source: Source, member: Member, count: int) -> bytes:
    """The first *count* unpacked bytes of *member*, or fewer; its checksum is not looked at."""
    if member.stored:
        return source.read_at(member.start, min(count, member.packed))
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            source.read_at(member.start, min(max(1024, count), member.packed)), count
        )
    except zlib.error:
        return b""


def _inflate(source: Source, member: Member, anomalies: list[Anomaly]) -> bytes:
    """Unpack *member* as far as it goes, and never to more than its announced size."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    position = member.start
    try:
        while not stream.eof and len(out) <= member.size:
            packed = stream.unconsumed_tail
            if not packed:
                packed = source.read_at(position, min(_CHUNK, member.end - position))
                position += len(packed)
                if not packed:
                    break
            before = stream.copy()
            out += stream.decompress(packed, member.size + 1 - len(out))
    except zlib.error as error:
        anomalies.append(Anomaly("zip.deflate", f"the member cannot be unpacked: {error}", member.name))
        return bytes(out) + _salvage(before, packed, member.size - len(out))
    if len(out) > member.size:
        message = f"the member unpacks to more than the {member.size} bytes announced"
        anomalies.append(Anomaly("zip.bomb", message, member.name))
    elif not stream.eof:
        message = "the member's packed bytes end too early"
        anomalies.append(Anomaly("zip.deflate", message, member.name))
    elif stream.unused_data or position < member.end:
        message = "bytes follow the packed data inside the member"
        anomalies.append(Anomaly("zip.deflate", message, member.name))
    return bytes(out[: member.size])


def _salvage(stream: zlib._Decompress, packed: bytes, most: int) -> bytes:
    """What *packed* unpacks to before the byte at which it is broken."""
    out = bytearray()
    with suppress(zlib.error):
        for index in range(len(packed)):
            out += stream.decompress(stream.unconsumed_tail + packed[index : index + 1], max(1, most - len(out)))
    return bytes(out[:most])
