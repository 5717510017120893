"""Zip archives byte by byte, with every number open to a lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One member; what is ``None`` is what it should be. *flags* are for both headers, *local_* for one of them."""

    name: str
    data: bytes = b""
    deflate: bool = False
    flags: int = 0
    local_flags: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    crc: int | None = None
    size: int | None = None
    method: int | None = None


def archive(entries: Iterable[Entry], *, prefix: bytes = b"", comment: bytes = b"", gap: bytes = b"") -> bytes:
    """A zip of *entries*; offsets count from the first byte of *prefix*, *gap* stands before the directory."""
    body = bytearray(prefix)
    directory = bytearray()
    count = 0
    for entry in entries:
        offset = len(body)
        packed = entry.data
        if entry.deflate:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = packer.compress(entry.data) + packer.flush()
        method = (8 if entry.deflate else 0) if entry.method is None else entry.method
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        stored = size if method == 0 else len(packed)
        local = entry.flags if entry.local_flags is None else entry.local_flags
        name, local_name = entry.name.encode(), (entry.local_name or entry.name).encode()
        told = size if entry.local_size is None else entry.local_size
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, local, method, 0, 0, crc, stored, told, len(local_name), 0)
        body += local_name + packed
        fields = (20, 20, entry.flags, method, 0, 0, crc, stored, size, len(name), 0, 0, 0, 0, 0, offset)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name
        count += 1
    body += gap
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), len(comment))
    return bytes(body + directory + end + comment)


def checkpoint(program: bytes, storages: Iterable[bytes] = (), *, top: str = "archive") -> list[Entry]:
    """The members of a torch checkpoint whose ``data.pkl`` is *program*."""
    return [
        Entry(f"{top}/data.pkl", program),
        Entry(f"{top}/byteorder", b"little"),
        *(Entry(f"{top}/data/{key}", data) for key, data in enumerate(storages)),
        Entry(f"{top}/version", b"3\n"),
    ]
