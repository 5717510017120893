"""A zip archive's own table of contents, read the way torch reads it and distrusted where readers could disagree.

Source of the layout: PKWARE APPNOTE 6.3.10, sections 4.3.12 (central directory) to 4.3.16 (end record). torch's reader
(miniz) takes the *last* end record of the file and believes its absolute offsets; Python's ``zipfile`` shifts them by
whatever stands before the archive. Where the two could see different archives there is an anomaly.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.source import Source

MAX_ENTRIES = 200_000
"""Members of one archive: a checkpoint of a hundred thousand tensors has as many and a few."""

MAX_DIRECTORY = 32 << 20

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_FIELD = struct.Struct("<2H")
_END_MAGIC, _LOCATOR_MAGIC, _END64_MAGIC, _CENTRAL_MAGIC = b"PK\5\6", b"PK\6\7", b"PK\6\6", b"PK\1\2"

ZIP64, UNICODE_PATH = 0x0001, 0x7075
STORED, DEFLATED = 0, 8
ENCRYPTED, DESCRIPTOR, UTF8 = 0x0001, 0x0008, 0x0800
_PLAIN_FLAGS = DESCRIPTOR | UTF8 | 0x0006  # 1 and 2 only say how hard a deflated member was compressed
_FOLDER, _LINK = 0x10, 0xA  # in the external attributes: the DOS folder bit, and the Unix file type
_ODD_NAME = re.compile(r"[\0\\]|^/|^.:|(?:^|/)\.\.(?:/|$)")


class Entry(NamedTuple):
    """One line of the central directory; ``packed`` and ``size`` are in bytes, ``header`` is absolute."""

    name: str
    raw_name: bytes
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int
    attributes: int


class Directory(NamedTuple):
    """The entries as they stand in the central directory, where it begins, and what is odd about it.

    ``whole`` is false when entries could not be read or were too many to be.
    """

    entries: tuple[Entry, ...]
    start: int
    anomalies: tuple[Anomaly, ...]
    whole: bool = True


class _End(NamedTuple):
    entries: int
    size: int
    offset: int
    position: int


def read_directory(source: Source) -> Directory | None:
    """The central directory of the zip *source*; ``None`` when it has no end record (it is cut off)."""
    anomalies: list[Anomaly] = []
    end = _find_end(source, anomalies)
    if end is None:
        return None
    if end.entries > MAX_ENTRIES or end.size > MAX_DIRECTORY:
        message = f"the archive says it has {end.entries} members in a directory of {end.size} bytes"
        anomalies.append(Anomaly("zip.limit", message, offset=end.position))
        return Directory((), end.offset, tuple(anomalies), whole=False)

    start, shift = end.offset, end.position - end.size - end.offset
    if shift:
        message = f"the directory should end where the end record begins, but is {abs(shift)} bytes off"
        anomalies.append(Anomaly("zip.directory-position", message, offset=start))
        if source.read_at(start, 4) != _CENTRAL_MAGIC and start + shift >= 0:
            start += shift
        else:
            shift = 0
    data = source.read_at(start, end.size)
    entries = tuple(_parse_entries(data, start, shift, anomalies))
    consistent = len(entries) == end.entries
    if not consistent:
        message = f"the end record announces {end.entries} members, the directory has {len(entries)}"
        anomalies.append(Anomaly("zip.entry-count", message, offset=end.position))
    anomalies.extend(_name_clashes(entries))
    return Directory(entries, start, tuple(anomalies), whole=consistent)


def _find_end(source: Source, anomalies: list[Anomaly]) -> _End | None:
    """The last end record, with what its zip64 extension says in its stead."""
    tail_size = min(source.size, _END.size)
    tail = source.read_at(source.size - tail_size, tail_size)
    if not (tail.startswith(_END_MAGIC) and len(tail) == _END.size):
        tail_size = min(source.size, _END.size + 0xFFFF)
        tail = source.read_at(source.size - tail_size, tail_size)
    index = tail.rfind(_END_MAGIC, 0, max(0, len(tail) - _END.size + len(_END_MAGIC)))
    if index < 0:
        return None
    position = source.size - tail_size + index
    _, disk, first_disk, here, entries, size, offset, comment = _END.unpack_from(tail, index)
    after = len(tail) - index - _END.size
    if comment:
        message = f"the archive carries a comment of {comment} bytes, in which another archive could hide"
        anomalies.append(Anomaly("zip.comment", message, offset=position))
    if after > comment:
        message = f"{after - comment} bytes follow the end of the archive"
        anomalies.append(Anomaly("zip.trailing-bytes", message, offset=position + _END.size + comment))
    if disk or first_disk or here != entries:
        anomalies.append(Anomaly("zip.multi-disk", "the archive says it is split", offset=position))
    end = _End(entries, size, offset, position)
    return _extended_end(source, end, anomalies)


def _extended_end(source: Source, end: _End, anomalies: list[Anomaly]) -> _End:
    """*end* as the zip64 end record before it says; *end* itself where there is none (APPNOTE 4.3.14, 4.3.15)."""
    at = end.position - _LOCATOR.size
    block = source.read_at(at, _LOCATOR.size) if at >= 0 else b""
    if not block.startswith(_LOCATOR_MAGIC):
        return end
    _, disk, position, disks = _LOCATOR.unpack(block)
    record = source.read_at(position, _END64.size)
    if len(record) < _END64.size or not record.startswith(_END64_MAGIC) or position + _END64.size > at:
        message = "the zip64 locator does not point at a zip64 end record"
        anomalies.append(Anomaly("zip.zip64", message, offset=at))
        return end
    _, length, _, _, this_disk, first_disk, here, entries, size, offset = _END64.unpack(record)
    if length != _END64.size - 12 or position + _END64.size != at:
        message = "there is more than one end record's worth of bytes before the zip64 locator"
        anomalies.append(Anomaly("zip.zip64", message, offset=position))
    if disk or this_disk or first_disk or disks > 1 or here != entries:
        anomalies.append(Anomaly("zip.multi-disk", "the archive says it is split", offset=position))
    narrow = zip((end.entries, end.size, end.offset), (entries, size, offset), (0xFFFF, *[0xFFFFFFFF] * 2), strict=True)
    if any(short not in (long, limit) for short, long, limit in narrow):
        message = "the two end records (zip and zip64) contradict each other"
        anomalies.append(Anomaly("zip.zip64", message, offset=position))
    return _End(entries, size, offset, position)


def _parse_entries(data: bytes, start: int, shift: int, anomalies: list[Anomaly]) -> list[Entry]:
    entries: list[Entry] = []
    position = 0
    while position < len(data) and len(entries) <= MAX_ENTRIES:
        fixed_end = position + _CENTRAL.size
        if fixed_end > len(data) or data[position : position + 4] != _CENTRAL_MAGIC:
            message = "the central directory is broken"
            anomalies.append(Anomaly("zip.directory", message, offset=start + position))
            break
        numbers = _CENTRAL.unpack_from(data, position)
        flags, method = numbers[3:5]
        crc, packed, size, name_len, extra_len, comment_len, disk = numbers[7:14]
        attributes, header = numbers[15:]
        raw_name = data[fixed_end : fixed_end + name_len]
        extra = data[fixed_end + name_len : fixed_end + name_len + extra_len]
        name = _decode_name(raw_name, flags)
        position = fixed_end + name_len + extra_len + comment_len
        if position > len(data):
            message = "the central directory is broken: an entry runs past its end"
            anomalies.append(Anomaly("zip.directory", message, name))
            break
        fields = extra_fields(extra, name, anomalies) if extra else {}
        if ZIP64 in fields or 0xFFFFFFFF in (size, packed, header):
            widened = widen(fields.get(ZIP64, b""), (size, packed, header))
            if widened is None:
                message = "the member's zip64 field does not have the numbers it must have"
                anomalies.append(Anomaly("zip.zip64", message, name))
            else:
                size, packed, header = widened
        if disk:
            anomalies.append(Anomaly("zip.multi-disk", "the member says it lies in another part", name))
        entry = Entry(name, raw_name, method, flags, crc, packed, size, header + shift, attributes)
        _check_entry(entry, anomalies)
        entries.append(entry)
    return entries


def _check_entry(entry: Entry, anomalies: list[Anomaly]) -> None:
    """What no entry of a model file says."""
    name, method = entry.name, entry.method
    if entry.flags & ENCRYPTED:
        anomalies.append(Anomaly("zip.encrypted", "the member is encrypted", name))
    if entry.flags & ~(_PLAIN_FLAGS | ENCRYPTED):
        message = "the member has flags that no model file has"
        anomalies.append(Anomaly("zip.flags", message, name, None, f"{entry.flags:#06x}"))
    if method not in (STORED, DEFLATED):
        message = f"the member is packed by method {method}, which is not examined"
        anomalies.append(Anomaly("zip.method", message, name))
    elif method == STORED and entry.packed != entry.size:
        message = f"the member is stored as it is, but {entry.packed} bytes are said to be {entry.size}"
        anomalies.append(Anomaly("zip.size-mismatch", message, name))
    if entry.size and (entry.attributes & _FOLDER or entry.attributes >> 28 == _LINK or name.endswith("/")):
        message = "the member is said to be a folder or a link, and has data: what torch reads there is not the data"
        anomalies.append(Anomaly("zip.file-type", message, name))
    if _ODD_NAME.search(name):
        message = "the member's name could lead out of a folder it is unpacked to, or be read in two ways"
        anomalies.append(Anomaly("zip.member-name", message, name))


def _name_clashes(entries: tuple[Entry, ...]) -> list[Anomaly]:
    """Names that occur twice, exactly or but for the case of letters: loaders disagree on which one they take."""
    found: list[Anomaly] = []
    exact: set[str] = set()
    folded: set[str] = set()
    for entry in entries:
        key = entry.name.casefold()
        if entry.name in exact:
            found.append(Anomaly("zip.duplicate-member", "the archive has two members of this name", entry.name))
        elif key in folded:
            message = "the archive has two members whose names differ only in case, which torch does not tell apart"
            found.append(Anomaly("zip.case-clash", message, entry.name))
        exact.add(entry.name)
        folded.add(key)
    return found


def _decode_name(raw: bytes, flags: int) -> str:
    if raw.isascii():
        return raw.decode("ascii")
    return raw.decode("utf-8", "backslashreplace") if flags & UTF8 else raw.decode("cp437")


def extra_fields(extra: bytes, name: str, anomalies: list[Anomaly]) -> dict[int, bytes]:
    """The extra fields of a header by id (APPNOTE 4.5.1); torch pads its members with one called ``FB``."""
    fields: dict[int, bytes] = {}
    position = 0
    sound = True
    while sound and position + 4 <= len(extra):
        key, length = _FIELD.unpack_from(extra, position)
        position += 4 + length
        sound = position <= len(extra) and key not in fields
        fields[key] = extra[position - length : position]
    if not sound or any(extra[position:]):
        anomalies.append(Anomaly("zip.extra-field", "the member's extra fields are malformed", name))
    if UNICODE_PATH in fields:
        message = "the member has a second name in an extra field, which some readers prefer"
        anomalies.append(Anomaly("zip.extra-field", message, name))
    return fields


def widen(field: bytes, narrow: tuple[int, ...]) -> tuple[int, ...] | None:
    """*narrow* with each 0xFFFFFFFF replaced by the next number of the zip64 *field*; ``None`` if they do not fit."""
    count = sum(value == 0xFFFFFFFF for value in narrow)
    if len(field) != 8 * count:
        return None
    numbers = iter(struct.unpack(f"<{count}Q", field))
    return tuple(next(numbers) if value == 0xFFFFFFFF else value for value in narrow)
