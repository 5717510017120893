"""Model files of full size that take no room: their tensors are holes of a sparse file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")


def sparse_safetensors(path: Path, header: bytes, data: int) -> None:
    """A safetensors file of *header* (its JSON) and *data* bytes of zeros."""
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + data)


class SparseZip:
    """A zip archive laid out as torch does it, whose large members are holes.

    Members are aligned to 64 bytes by a padding field ``FB``; each is followed by a descriptor of 16 bytes, or 24 where
    its header lies behind 4 GiB.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._directory = io.BytesIO()
        self._count = 0

    def add(self, name: str, data: bytes = b"", zeros: int = 0, *, own_name: str | None = None, gap: int = 0) -> None:
        """A member of *data* and *zeros*; *own_name* is what its own header calls it, *gap* bytes precede it."""
        file = self._file
        file.seek(gap, os.SEEK_CUR)
        at = file.tell()
        raw = name.encode()
        wide = at >= 0xFFFFFFFF
        extra = struct.pack("<2HQ", 1, 8, at) if wide else b""
        padding = -(at + _LOCAL.size + len(raw) + len(extra) + 4) % 64
        padded = extra + b"FB" + struct.pack("<H", padding) + b"Z" * padding
        file.write(_LOCAL.pack(b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(raw), len(padded)))
        file.write((own_name or name).encode() + padded + data)
        file.seek(zeros, os.SEEK_CUR)
        size = len(data) + zeros
        crc = 0 if zeros else zlib.crc32(data)
        file.write(b"PK\7\10" + struct.pack("<L2Q" if wide else "<3L", crc, size, size))
        numbers = (0, 0, 0x808, 0, 0, 0, crc, size, size, len(raw), len(extra), 0, 0, 0, 0)
        self._directory.write(_CENTRAL.pack(b"PK\1\2", *numbers, 0xFFFFFFFF if wide else at) + raw + extra)
        self._count += 1

    def close(self) -> None:
        file, directory = self._file, self._directory.getvalue()
        at = file.tell()
        file.write(directory)
        end = file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 30, 45, 0, 0, *[self._count] * 2, len(directory), at))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        short = (min(self._count, 0xFFFF), min(self._count, 0xFFFF), len(directory), min(at, 0xFFFFFFFF))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *short, 0))
        file.close()


def checkpoint_pickle(names: list[str], elements: int, extra: bytes = b"") -> bytes:
    """``data.pkl`` of a dict of float32 vectors called *names*, as torch writes it; *extra* opcodes begin it."""
    out = [b"\x80\x02", extra, b"}("]
    for key, name in enumerate(names):
        out += [b"X", struct.pack("<L", len(name)), name.encode(), b"ctorch._utils\n_rebuild_tensor_v2\n((X"]
        out += [struct.pack("<L", 7), b"storagectorch\nFloatStorage\nX", struct.pack("<L", len(str(key)))]
        out += [str(key).encode(), b"X\x03\0\0\0cpu", b"J", struct.pack("<i", elements), b"tQK\0J"]
        out += [struct.pack("<i", elements), b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join([*out, b"u."])


def sparse_checkpoint(path: Path, count: int, elements: int, extra: bytes = b"", **of_last: int | str) -> None:
    """A torch zip file of *count* float32 vectors of *elements* each; *extra* opcodes begin its pickle, *of_last* are
    options of :meth:`SparseZip.add` for the last storage but one."""
    archive = SparseZip(path)
    archive.add("archive/data.pkl", checkpoint_pickle([f"layer.{n}.weight" for n in range(count)], elements, extra))
    archive.add("archive/byteorder", b"little")
    for key in range(count):
        options = of_last if key == count - 2 else {}
        archive.add(f"archive/data/{key}", zeros=4 * elements, **options)  # type: ignore[arg-type]
    archive.add("archive/version", b"3\n")
    archive.close()


def call_of(module: str, name: str, argument: str) -> bytes:
    """Opcodes that would call *module*.*name* with the text *argument*, and drop the answer."""
    text = argument.encode()
    return f"c{module}\n{name}\n".encode() + b"X" + struct.pack("<L", len(text)) + text + b"\x85R0"
