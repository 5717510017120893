"""A 7z archive's own description of itself, which lies at its end and is mostly packed too.

Source: ``7zFormat.txt`` of the LZMA SDK 24.09, whose names are used here.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from modelhub.container.sevenzip_folders import END, Broken, Cursor, Folder, Member, Streams, fail
from modelhub.source import Source

SIGNATURE = struct.Struct("<6s2BLQQL")
"""The first bytes of an archive: magic, version, checksum of what follows; where the header is, its size, checksum."""

MAX_HEADER = 16 << 20
"""Bytes of a header, as it lies there and unpacked, that are read."""

_HEADER, _PROPERTIES, _ADDITIONAL, _MAIN, _FILES = 0x01, 0x02, 0x03, 0x04, 0x05
_EMPTY, _NAMES, _ATTRIBUTES, _ENCODED = 0x0E, 0x11, 0x15, 0x17
_UNIX = 0x8000  # in a member's attributes: the upper half is the mode that Unix gave it


class SevenZip(NamedTuple):
    """What an archive says of itself: ``names`` are those of all members, ``runs`` the bytes that belong to something.

    ``packing`` is the folder that the description itself was packed in, if it was.
    """

    folders: tuple[Folder, ...]
    names: tuple[str, ...]
    runs: tuple[tuple[int, int], ...]
    packing: Folder | None = None


def read_header(source: Source, unpack: Callable[[Folder], bytes]) -> SevenZip:
    """What the 7z archive *source* says of itself; *unpack* gives the bytes of a folder, as many as it can.

    Raises :class:`Broken` when it says nothing that can be believed, and whatever *unpack* raises.
    """
    head = source.read_at(0, SIGNATURE.size)
    if len(head) < SIGNATURE.size:
        raise Broken("the archive ends inside its first header")
    _, _, _, crc, offset, size, header_crc = SIGNATURE.unpack(head)
    if zlib.crc32(head[12:]) != crc:
        raise Broken("the archive's first header does not match its checksum")
    start = SIGNATURE.size + offset
    if size == 0:
        return SevenZip((), (), ((start, start),))
    if start + size > source.size:
        raise Broken(f"the archive is cut off: {start + size - source.size} bytes are missing")
    if size > MAX_HEADER:
        raise Broken(f"its header has {size} bytes, of which at most {MAX_HEADER} are read")
    data = source.read_at(start, size)
    if zlib.crc32(data) != header_crc:
        raise Broken("its header does not match its checksum")
    runs = [(start, start + size)]
    packing = None
    while data[:1] == bytes([_ENCODED]):
        streams = Streams(SIGNATURE.size, source.size)
        streams.read(Cursor(data, 1))
        if len(streams.folders) != 1 or packing is not None:
            raise Broken("its header is not packed in one folder")
        packing = streams.folders[0]
        runs += streams.runs
        data = unpack(packing)
        if packing.crc is not None and zlib.crc32(data) != packing.crc:
            raise Broken("its unpacked header does not match its checksum")
    if data[:1] != bytes([_HEADER]):
        raise Broken("its header does not begin as one")
    return _header(Cursor(data, 1), source.size, runs, packing)


def _header(cursor: Cursor, size: int, runs: list[tuple[int, int]], packing: Folder | None) -> SevenZip:
    kind = cursor.byte()
    if kind in (_PROPERTIES, _ADDITIONAL):
        fail("it has properties or streams of its own, which no archive of files has")
    streams = Streams(SIGNATURE.size, size)
    if kind == _MAIN:
        streams.read(cursor)
        kind = cursor.byte()
    parts = [(index, *part) for index, each in enumerate(streams.parts) for part in each]
    names: list[str] = []
    members: list[list[Member]] = [[] for _ in streams.folders]
    if kind == _FILES:
        names, empty, links = _files(cursor)
        kind = cursor.byte()
        full = [index for index in range(len(names)) if not empty[index]]
        if len(full) != len(parts):
            fail(f"it has {len(full)} members with bytes, and bytes of {len(parts)}")
        for index, (folder, length, crc) in zip(full, parts, strict=True):
            members[folder].append(Member(names[index], length, crc, links[index]))
    elif parts:
        fail("its members have no names")
    if kind != END or cursor.at != len(cursor.data):
        fail("its header has more than an archive of files")
    folders = (each._replace(members=tuple(of)) for each, of in zip(streams.folders, members, strict=True))
    return SevenZip(tuple(folders), tuple(names), tuple(sorted([*runs, *streams.runs])), packing)


def _files(cursor: Cursor) -> tuple[list[str], list[bool], list[bool]]:
    """The members' names, whether each has no bytes, and whether each is a link."""
    count = cursor.count()
    names: list[str] = []
    empty, links = [False] * count, [False] * count
    while (kind := cursor.number()) != END:
        part = Cursor(cursor.take(cursor.number()))
        if kind == _EMPTY:
            empty = part.flags(count)
        elif kind == _NAMES:
            if part.byte():
                fail("its members' names lie elsewhere")
            names = part.data[1:].decode("utf-16-le", "backslashreplace").split("\0")
            if len(names) != count + 1 or names.pop():
                fail("it has more, or fewer, names than members")
        elif kind == _ATTRIBUTES:
            known = part.some(count)
            if part.byte():
                fail("its members' attributes lie elsewhere")
            modes = [int.from_bytes(part.take(4), "little") if each else 0 for each in known]
            links = [bool(mode & _UNIX) and stat.S_ISLNK(mode >> 16) for mode in modes]
    if len(names) != count:
        fail("its members have no names")
    return names, empty, links
