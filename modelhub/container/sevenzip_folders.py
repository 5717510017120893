"""The folders of a 7z archive: runs of packed bytes, how each is packed, and what the header says of their members.

A folder unpacks, by one coder after the other, to the contents of its members, one after the other. Source:
``7zFormat.txt`` of the LZMA SDK 24.09, whose names are used here. Everything is bounded by the bytes that are there.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

MAX_COUNT = 100_000
"""Members, or folders, that are looked at."""

_MAX_STREAMS = 32  # of the coders of one folder, as in 7-Zip itself
END, SIZE, CRC = 0x00, 0x09, 0x0A
"""Parts of a header that occur in several others."""
_PACK, _UNPACK, _SUBSTREAMS, _FOLDER, _UNPACK_SIZE, _COUNT = 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x0D


class Broken(Exception):
    """The description cannot be believed; the text says why."""


class Coder(NamedTuple):
    """One step of unpacking: the method's id and its settings."""

    method: bytes
    settings: bytes


class Member(NamedTuple):
    """A file in the archive: its size in bytes and, where it has one, its checksum."""

    name: str
    size: int
    crc: int | None
    link: bool = False


class Folder(NamedTuple):
    """``packed`` bytes at ``start`` (absolute) that ``coders``, in this order, unpack to ``size`` bytes of ``members``.

    ``coders`` is empty when they are not one plain chain.
    """

    coders: tuple[Coder, ...]
    start: int
    packed: int
    size: int
    crc: int | None
    members: tuple[Member, ...] = ()


class Cursor:
    """A walk through the bytes of a header."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, length: int) -> bytes:
        """The next *length* bytes."""
        if length > len(self.data) - self.at:
            fail("its header ends too early")
        self.at += length
        return self.data[self.at - length : self.at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """An unsigned number of up to 64 bits: the ones that the first byte begins with count the bytes after it."""
        first = self.byte()
        more = next((count for count in range(8) if not first & 0x80 >> count), 8)
        low = int.from_bytes(self.take(more), "little")
        return low if more > 6 else low | (first & (0x7F >> more)) << 8 * more

    def count(self) -> int:
        """A number of things, each of which takes up memory."""
        number = self.number()
        if number > MAX_COUNT:
            fail(f"it has more parts ({number}) than are looked at")
        return number

    def flags(self, count: int) -> list[bool]:
        """*count* truths, eight to a byte."""
        data = self.take((count + 7) // 8)
        return [bool(data[index >> 3] & 0x80 >> (index & 7)) for index in range(count)]

    def some(self, count: int) -> list[bool]:
        """The same, written shorter when all of them are true."""
        return [True] * count if self.byte() else self.flags(count)

    def checksums(self, count: int) -> list[int | None]:
        """*count* checksums, some of which may be missing."""
        return [int.from_bytes(self.take(4), "little") if known else None for known in self.some(count)]

    def expect(self, kind: int) -> None:
        """Pass over the byte that a part of *kind* begins with."""
        found = self.byte()
        if found != kind:
            fail(f"its header has a part {found:#04x} where {kind:#04x} should be")


class Streams:
    """The folders that a header's part about streams tells of, and the bytes of the archive that they take up."""

    def __init__(self, start: int, size: int) -> None:
        self._start = start
        self._archive_size = size
        self.folders: list[Folder] = []
        self.parts: list[list[tuple[int, int | None]]] = []  # of each folder: size and checksum of its members
        self.runs: list[tuple[int, int]] = []

    def read(self, cursor: Cursor) -> None:
        """Read the part that *cursor* is in; offsets are from ``start`` on."""
        kind = cursor.byte()
        if kind == _PACK:
            self._packed(cursor)
            kind = cursor.byte()
        if kind == _UNPACK:
            self._folders(cursor)
            kind = cursor.byte()
        self.parts = [[(each.size, each.crc)] for each in self.folders]
        if kind == _SUBSTREAMS:
            self._substreams(cursor)
            kind = cursor.byte()
        if kind != END:
            fail(f"its header has an unknown part {kind:#04x}")

    def _packed(self, cursor: Cursor) -> None:
        start = self._start + cursor.number()
        count = cursor.count()
        kind = cursor.byte()
        if kind == SIZE:
            for size in [cursor.number() for _ in range(count)]:
                self.runs.append((start, start + size))
                start += size
            kind = cursor.byte()
        if kind == CRC:
            cursor.checksums(count)
            kind = cursor.byte()
        if kind != END or start > self._archive_size:
            fail("its header contradicts the archive's size")

    def _folders(self, cursor: Cursor) -> None:
        cursor.expect(_FOLDER)
        count = cursor.count()
        if cursor.byte():
            fail("the description of its folders lies elsewhere")
        shapes = [_chain(cursor) for _ in range(count)]
        cursor.expect(_UNPACK_SIZE)
        sizes = [[cursor.number() for _ in range(outputs)] for _, outputs, _, _ in shapes]
        kind = cursor.byte()
        checksums: list[int | None] = [None] * count
        if kind == CRC:
            checksums = cursor.checksums(count)
            kind = cursor.byte()
        if kind != END:
            fail("the description of its folders does not end")
        taken = 0
        for (coders, _, last, streams), unpacked, crc in zip(shapes, sizes, checksums, strict=True):
            if taken + streams > len(self.runs):
                fail("its folders have more packed bytes than it has")
            start, end = self.runs[taken][0], self.runs[taken + streams - 1][1]
            taken += streams
            self.folders.append(Folder(coders, start, end - start, unpacked[last], crc))

    def _substreams(self, cursor: Cursor) -> None:
        kind = cursor.byte()
        counts = [1] * len(self.folders)
        if kind == _COUNT:
            counts = [cursor.count() for _ in self.folders]
            kind = cursor.byte()
        if sum(counts) > MAX_COUNT:
            fail("it has more members than are looked at")
        sizes = []
        for folder, count in zip(self.folders, counts, strict=True):
            given = [cursor.number() for _ in range(count - 1)] if kind == SIZE else []
            if sum(given) > folder.size or (count > 1 and kind != SIZE):
                fail("the members of a folder are larger than it is")
            sizes.append([*given, folder.size - sum(given)] if count else [])
        if kind == SIZE:
            kind = cursor.byte()
        known = [count == 1 and folder.crc is not None for folder, count in zip(self.folders, counts, strict=True)]
        missing = sum(0 if whole else count for whole, count in zip(known, counts, strict=True))
        given_crcs: list[int | None] = [None] * missing
        if kind == CRC:
            given_crcs = cursor.checksums(missing)
            kind = cursor.byte()
        if kind != END:
            fail("the description of its members' sizes does not end")
        crcs = iter(given_crcs)
        self.parts = [
            [(size, folder.crc if whole else next(crcs)) for size in each]
            for folder, whole, each in zip(self.folders, known, sizes, strict=True)
        ]


def _chain(cursor: Cursor) -> tuple[tuple[Coder, ...], int, int, int]:
    """A folder's coders in the order of unpacking, how many outputs they have, which one is the folder's own, and how
    many packed streams it takes."""
    count = cursor.number()
    if not 1 <= count <= _MAX_STREAMS:
        fail(f"a folder has {count} coders")
    coders: list[Coder] = []
    inputs = outputs = 0
    for _ in range(count):
        flags = cursor.byte()
        method = cursor.take(flags & 0x0F)
        takes, gives = (cursor.number(), cursor.number()) if flags & 0x10 else (1, 1)
        settings = cursor.take(cursor.count()) if flags & 0x20 else b""
        if flags & 0xC0 or takes > _MAX_STREAMS or gives > _MAX_STREAMS:
            fail("a folder has a coder of an unknown form")
        coders.append(Coder(method, settings))
        inputs += takes
        outputs += gives
    if not outputs or inputs < outputs - 1:
        fail("the coders of a folder do not fit together")
    bound = {cursor.number(): cursor.number() for _ in range(outputs - 1)}  # input: the output it is fed by
    streams = inputs - len(bound)
    if streams > 1:
        for _ in range(streams):
            cursor.number()
    free = [index for index in range(outputs) if index not in bound.values()]
    if len(bound) != outputs - 1 or len(free) != 1 or streams < 1:
        fail("the coders of a folder do not fit together")
    if inputs != count or outputs != count:
        return (), outputs, free[0], streams
    order = [free[0]]
    while order[-1] in bound and len(order) < count:
        order.append(bound[order[-1]])
    if len(order) != count or max(order) >= count:
        fail("the coders of a folder do not fit together")
    return tuple(coders[index] for index in reversed(order)), outputs, free[0], streams


def fail(why: str) -> NoReturn:
    """Raise :class:`Broken` for the reason *why*."""
    raise Broken(why)
