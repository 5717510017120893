"""7z archives: unpacked into memory, within bounds and by Python's own modules, and every member opened as a file.

Members that are packed by PPMd, Deflate64 or BCJ2, or encrypted, are not unpacked, and said to be so. A folder of many
members can only be unpacked from its beginning: after a member that is too long for memory, those behind it are not
opened.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

from modelhub.anomalies import Anomaly
from modelhub.container.archive import OpenedMember, gathered
from modelhub.container.base import Container, Skipped
from modelhub.container.nesting import MAX_PREFIX, Nesting, Part, not_opened, open_inside
from modelhub.container.sevenzip_folders import Broken, Coder, Folder, Member
from modelhub.container.sevenzip_header import MAX_HEADER, SIGNATURE, SevenZip, read_header
from modelhub.container.unpackers import Inflater, Unpacker, bounded_dictionary, is_bomb, lzma_filter, unpackers
from modelhub.errors import MissingExtra
from modelhub.source import BytesSource, Source

_CHUNK = 1 << 16
_MAX_FOLDERS = 1000
_COPY, _DELTA, _LZMA, _LZMA2 = b"\x00", b"\x03", b"\x03\x01\x01", b"\x21"
_DEFLATE = b"\x04\x01\x08"
_KINDS = {b"\x04\x02\x02": "bz2", b"\x04\xf7\x11\x01": "zstd", b"\x04\xf7\x11\x04": "lz4"}
_ENCRYPTED = b"\x06\xf1\x07"
_BRANCHES = {  # filters for the machine code of so many processors: liblzma's ids of them
    b"\x03\x03\x01\x03": 4, b"\x03\x03\x02\x05": 5, b"\x03\x03\x04\x01": 6, b"\x03\x03\x05\x01": 7,
    b"\x03\x03\x07\x01": 8, b"\x03\x03\x08\x05": 9, b"\x04": 4, b"\x05": 5, b"\x06": 6, b"\x07": 7, b"\x08": 8,
    b"\x09": 9,
}  # fmt: skip
_ODD_NAME = re.compile(r"[\0\\]|^/|^.:|(?:^|/)\.\.(?:/|$)")


class _Refused(Exception):
    """A folder cannot be unpacked here; *rule* and text say why."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_7z(source: Source, nesting: Nesting) -> Container:
    """Open the 7z archive *source*: kind ``7z``, examined as far as its members are."""
    anomalies: list[Anomaly] = []
    skipped: list[Skipped] = []
    found: list[OpenedMember] = []
    try:
        archive = read_header(source, lambda folder: _unpacked_header(source, folder))
    except (Broken, _Refused) as error:
        rule = error.rule if isinstance(error, _Refused) else "archive.broken"
        message = f"the 7z archive's members cannot be told: {error}"
        odd = Anomaly(rule, message)
        return Container("7z", source.name, source, anomalies=(odd,), skipped=(Skipped(message),))
    anomalies += _layout(archive, source.size)
    anomalies += _names(archive)
    for index, folder in enumerate(archive.folders):
        if index < _MAX_FOLDERS:
            found += _members(source, folder, nesting, anomalies)
        else:
            skipped.append(Skipped("the archive has more folders than are unpacked"))
            break
    if not found:
        skipped.append(Skipped("there is nothing in the archive that a loader could take up"))
    return gathered("7z", source, found, anomalies, skipped)


def _layout(archive: SevenZip, size: int) -> Iterator[Anomaly]:
    """Whether everything in the file belongs to one member, or to the description of them."""
    reached = SIGNATURE.size
    for start, end in archive.runs:
        if start < reached and end > start:
            yield Anomaly("archive.overlap", "two members are said to be made of the same bytes", offset=start)
        elif start > reached:
            message = f"{start - reached} bytes belong to no member"
            yield Anomaly("archive.hole", message, offset=reached)
        reached = max(reached, end)
    if reached < size:
        yield Anomaly("archive.hole", f"{size - reached} bytes follow the end of the archive", offset=reached)


def _names(archive: SevenZip) -> Iterator[Anomaly]:
    seen: set[str] = set()
    for name in archive.names:
        if _ODD_NAME.search(name):
            message = "the member's name could lead out of a folder it is unpacked to, or be read in two ways"
            yield Anomaly("archive.member-name", message, name)
        if name.casefold() in seen:
            message = "the archive has two members of this name, or of names that differ only in case"
            yield Anomaly("archive.duplicate-member", message, name)
        seen.add(name.casefold())
    for member in (member for folder in archive.folders for member in folder.members if member.link):
        yield Anomaly("archive.member-name", "a link, which could lead out of the folder", member.name)


def _members(source: Source, folder: Folder, nesting: Nesting, anomalies: list[Anomaly]) -> Iterator[OpenedMember]:
    """The members of *folder* as files; one that cannot be had is one that was not opened."""
    reading = None if _is_copied(folder) else _Reading(source, folder)
    start = folder.start
    for member in folder.members:
        if not member.size:
            continue
        if reading is None:
            part = Part(source, member.name, start, min(member.size, folder.start + folder.packed - start))
            if part.size < member.size:
                anomalies.append(Anomaly("archive.broken", "the member's bytes are not all there", member.name))
            inner = open_inside(part, member.name, nesting)
            start += member.size
        elif reading.refusal is None:
            inner = _open_member(reading, member, nesting, anomalies)
        else:
            inner = not_opened(BytesSource(member.name, b""), member.name, *reading.refusal)
        yield OpenedMember(member.name, folder.start, inner)
    if start < folder.start + folder.packed if reading is None else reading.goes_on():
        message = "more bytes are packed than the members are made of"
        anomalies.append(Anomaly("archive.hole", message, offset=folder.start))


def _open_member(reading: _Reading, member: Member, nesting: Nesting, anomalies: list[Anomaly]) -> Container:
    """The next member of a folder that is being unpacked."""
    whole = nesting.unpacks(member.size)
    if not whole:
        reading.refusal = ("container.nested-limit", "the archive unpacks to more bytes than are looked at")
        if not nesting.unpacks(MAX_PREFIX):
            return not_opened(BytesSource(member.name, b""), member.name, *reading.refusal)
    data = reading.read(member.size if whole else MAX_PREFIX)
    if whole and len(data) < member.size:
        whole = False
        message = f"the member cannot be unpacked to its end: {reading.trouble}"[:200]
        anomalies.append(Anomaly(reading.rule, message, member.name))
        reading.refusal = (reading.rule, "the member is packed together with one that cannot be unpacked")
    elif whole and member.crc is not None and zlib.crc32(data) != member.crc:
        anomalies.append(Anomaly("archive.checksum", "the member's bytes do not match its checksum", member.name))
    return open_inside(BytesSource(member.name, data), member.name, nesting, whole=whole)


def _unpacked_header(source: Source, folder: Folder) -> bytes:
    if folder.size > MAX_HEADER:
        raise Broken(f"its header has {folder.size} bytes, of which at most {MAX_HEADER} are read")
    if _is_copied(folder):
        return source.read_at(folder.start, min(folder.packed, folder.size))
    reading = _Reading(source, folder)
    if reading.refusal is not None:
        raise _Refused(*reading.refusal)
    return reading.read(folder.size)


def _is_copied(folder: Folder) -> bool:
    return [coder.method for coder in folder.coders] == [_COPY]


class _Reading:
    """A folder that is unpacked from its beginning on.

    ``refusal`` is why no more of it is, as rule and text; ``trouble`` and ``rule`` tell why it gave less than asked.
    """

    def __init__(self, source: Source, folder: Folder) -> None:
        self.refusal: tuple[str, str] | None = None
        self.rule = "archive.broken"
        self.trouble = "the packed bytes end too early"
        self._source = source
        self._at, self._end = folder.start, folder.start + folder.packed
        self._start = folder.start
        self._made = 0
        self._endless = bool(folder.coders) and folder.coders[0].method == _LZMA
        try:
            self._fresh = _unpacker(folder)
            self._stream = self._fresh()
        except _Refused as refused:
            self.refusal = (refused.rule, str(refused))
        except Exception as error:  # LZMAError, ValueError and MemoryError of settings that cannot be
            self.refusal = ("archive.broken", f"the settings of its packing cannot be: {error}"[:200])

    def read(self, count: int) -> bytes:
        """The next *count* unpacked bytes; fewer where the packed ones are broken or end."""
        out = bytearray()
        waiting = b""
        try:
            while len(out) < count:
                if self._stream.eof:
                    waiting = self._stream.unused_data or b""
                if (self._stream.eof or self._stream.needs_input) and not waiting:
                    waiting = self._source.read_at(self._at, min(_CHUNK, self._end - self._at))
                    self._at += len(waiting)
                    if not waiting:
                        break
                if self._stream.eof:
                    self._stream = self._fresh()
                out += self._stream.decompress(waiting, count - len(out))
                waiting = b""
                if is_bomb(self._at - self._start, self._made + len(out)):
                    self.rule, self.trouble = "compressed.bomb", "it unpacks to far too many bytes"
                    break
        except Exception as error:  # zlib.error, OSError, EOFError, lzma.LZMAError, ZstdError, RuntimeError of lz4
            self.trouble = str(error)
        self._made += len(out)
        return bytes(out)

    def goes_on(self) -> bool:
        """Whether anything follows what was read so far, where the method of packing says where it ends."""
        if self.refusal is not None or self._endless:
            return False
        return bool(self.read(1)) or bool(self._stream.unused_data) or self._at < self._end


def _unpacker(folder: Folder) -> Callable[[], Unpacker]:
    """What unpacks *folder*; raises :class:`_Refused` when it takes a method that is not known here."""
    methods = [coder.method for coder in folder.coders]
    if any(method.startswith(_ENCRYPTED) for method in methods):
        raise _Refused("archive.encrypted", "its bytes are encrypted")
    if methods and methods[0] in (_LZMA, _LZMA2) and all(each == _DELTA or each in _BRANCHES for each in methods[1:]):
        import lzma

        chain = [*map(_filter, reversed(folder.coders[1:])), _lzma_filter(folder.coders[0], folder.size)]
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)
    if methods == [_DEFLATE]:
        return lambda: Inflater(-zlib.MAX_WBITS)
    if len(methods) == 1 and methods[0] in _KINDS:
        try:
            return unpackers(_KINDS[methods[0]])
        except MissingExtra as missing:
            raise _Refused("archive.method", f"its bytes are not unpacked: {missing} ({missing.hint})") from None
    shown = ", ".join(method.hex() for method in methods) or "several streams at once"
    raise _Refused("archive.method", f"its bytes are packed by a method that is not unpacked here ({shown})")


def _lzma_filter(coder: Coder, size: int) -> dict[str, int]:
    """liblzma's settings for LZMA, whose dictionary need not be larger than what is unpacked."""
    import lzma

    settings = coder.settings
    if coder.method == _LZMA2:
        if len(settings) != 1 or settings[0] > 40:
            raise ValueError("no dictionary's size")
        dictionary = (2 | settings[0] & 1) << settings[0] // 2 + 11
        return {"id": lzma.FILTER_LZMA2, "dict_size": bounded_dictionary(dictionary, size)}
    return lzma_filter(settings, size)


def _filter(coder: Coder) -> dict[str, int]:
    """liblzma's settings for what is undone after LZMA."""
    if coder.method == _DELTA:
        if len(coder.settings) != 1:
            raise ValueError("no distance")
        return {"id": 3, "dist": coder.settings[0] + 1}
    return {"id": _BRANCHES[coder.method]}
