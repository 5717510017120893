"""7z archives, built byte by byte."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from dataclasses import dataclass

LZMA2 = (b"\x21", b"\x16", lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}]))
BZIP2 = (b"\x04\x02\x02", b"", bz2.compress)
COPY = (b"\x00", b"", bytes)
DEFLATE = (b"\x04\x01\x08", b"", lambda data: zlib.compress(data)[2:-4])
UNKNOWN = (b"\x03\x04\x01", b"\0\0\0\0\0", bytes)
ENCRYPTED = (b"\x06\xf1\x07\x01", b"\0\0", bytes)


@dataclass
class Packed:
    """One folder of :func:`build_7z`; what is ``None`` is what it should be."""

    members: dict[str, bytes]
    method: tuple = LZMA2
    packed: bytes | None = None
    size: int | None = None
    crc: int | None = None
    before: bytes = b""


def number(value: int) -> bytes:
    return b"\xff" + struct.pack("<Q", value) if value > 0x7F else bytes([value])


def build_7z(folders: list[Packed], *, pack_header: bool = False, links: bool = False, after: bytes = b"") -> bytes:
    """A 7z archive of *folders*; *after* stands behind it, *links* says that every member is one."""
    body = bytearray()
    sizes, descriptions, unpacked, counts, parts, crcs, names = [], b"", b"", b"", b"", b"", []
    for each in folders:
        method, settings, pack = each.method
        data = b"".join(each.members.values())
        packed = pack(data) if each.packed is None else each.packed
        body += each.before + packed
        sizes.append(len(packed))
        flags = len(method) | (0x20 if settings else 0)
        descriptions += b"\1" + bytes([flags]) + method + (number(len(settings)) + settings if settings else b"")
        unpacked += number(len(data) if each.size is None else each.size)
        counts += number(len(each.members))
        parts += b"".join(number(len(member)) for member in list(each.members.values())[:-1])
        for member in each.members.values():
            crcs += struct.pack("<L", zlib.crc32(member) if each.crc is None else each.crc)
        names += each.members
    streams = b"\x06" + number(0) + number(len(sizes)) + b"\x09" + b"".join(map(number, sizes)) + b"\0"
    streams += b"\x07\x0b" + number(len(folders)) + b"\0" + descriptions + b"\x0c" + unpacked + b"\0"
    streams += b"\x08\x0d" + counts + (b"\x09" + parts if parts else b"") + b"\x0a\1" + crcs + b"\0\0"
    text = b"\0" + "".join(f"{name}\0" for name in names).encode("utf-16-le")
    files = b"\x05" + number(len(names)) + b"\x11" + number(len(text)) + text
    if links:
        modes = b"\1\0" + struct.pack("<L", 0o120777 << 16 | 0x8000) * len(names)
        files += b"\x15" + number(len(modes)) + modes
    header = b"\1" + (b"\4" + streams if folders else b"") + files + b"\0\0"
    if pack_header:
        packed = LZMA2[2](header)
        described = (
            b"\x17\x06" + number(len(body)) + b"\1\x09" + number(len(packed)) + b"\0\x07\x0b\1\0\1\x21\x21\1\x16"
        )
        described += b"\x0c" + number(len(header)) + b"\x0a\1" + struct.pack("<L", zlib.crc32(header)) + b"\0\0"
        body += packed
        header = described
    start = struct.pack("<QQL", len(body), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\0\4" + struct.pack("<L", zlib.crc32(start)) + start + body + header + after
