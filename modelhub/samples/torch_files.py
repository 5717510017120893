"""Files as ``torch.save`` writes them, without torch: the zip format and the older one before torch 1.6.

Tensor data streams from the weights' chunks to the file, so memory stays flat at any file size. A value is what
:func:`modelhub.samples.pickling.dumps` takes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO, Literal

from modelhub.samples.pickling import Import, dumps
from modelhub.samples.weights import Chunks, Storage

_LIMIT = 0xFFFFFFFF  # sizes and offsets from here on are written in zip64 fields
_UTF8_NAME = 0x0800
_SIZES_AFTER_DATA = 0x0008
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_DIRECTORY_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")


def write_torch_zip(
    path: str | os.PathLike[str],
    value: Any,
    *,
    root: str | None = None,
    before: Iterable[Any] = (),
    since: Literal["1.6", "2.1", "2.13"] = "2.13",
) -> None:
    """Write *value* to *path* byte for byte in the layout of torch 2.13's ``torch.save``, or of torch *since* another.

    *root* is the folder within the archive; torch takes the file's name without its extension. *before* is what
    loading makes first and drops. Raises ``ValueError`` when a weight's chunks are not as long as its storage.
    """
    name = os.path.splitext(os.path.basename(os.fspath(path)))[0] if root is None else root
    keys = _Keys()
    program = dumps(value, keys.persistent_id, before=before)
    with open(path, "wb") as file:
        archive = _Archive(file, name)
        archive.add("data.pkl", program)
        if since == "2.13":
            archive.add(".format_version", b"1")
            archive.add(".storage_alignment", b"64")
        if since != "1.6":
            archive.add("byteorder", b"little")
        for key in keys.storages if since == "2.13" else sorted(keys.storages):
            archive.stream(f"data/{key}", keys.storages[key].nbytes, keys.storages[key].chunks())
        archive.add("version", b"3\n")
        if since != "1.6":
            archive.add(".data/serialization_id", archive.fingerprint())
        archive.finish()


def write_torch_legacy(path: str | os.PathLike[str], value: Any, *, before: Iterable[Any] = ()) -> None:
    """Write *value* to *path* as torch did before 1.6 (``_use_new_zipfile_serialization=False``).

    Five pickles - magic number, protocol, system, value, storage keys - and then, key by key, each storage's
    length in elements (int64) and its bytes. Raises ``ValueError`` as :func:`write_torch_zip` does, and for element
    types that did not exist then.
    """
    keys = _Keys(legacy=True)
    program = dumps(value, keys.persistent_id, before=before)
    order = sorted(keys.storages)
    with open(path, "wb") as file:
        file.write(dumps(0x1950A86A20F9469CFC6C))
        file.write(dumps(1001))
        sizes = {"short": 2, "int": 4, "long": 4}
        file.write(dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}))
        file.write(program)
        file.write(dumps(order))
        for key in order:
            storage = keys.storages[key]
            file.write(struct.pack("<q", storage.numel))
            _copy(storage.chunks(), storage.nbytes, file, key)


class _Keys:
    """Gives each storage a key at its first appearance, and remembers the storages by it, in that order."""

    def __init__(self, *, legacy: bool = False) -> None:
        self.storages: dict[str, Storage] = {}
        self._key_of: dict[Storage, str] = {}
        self._legacy = legacy

    def persistent_id(self, storage: Storage, torch_class: Import, numel: int) -> tuple[Any, ...]:
        key = self._key_of.get(storage)
        if key is None:
            if self._legacy and torch_class.name == "UntypedStorage":
                raise ValueError(f"the legacy format has no {storage.dtype.label} storages")
            number = len(self._key_of)
            # torch used to take the storage's address, so legacy keys are long and not in order of appearance
            key = str(94_000_000_000_000 - 64 * number) if self._legacy else str(number)
            self._key_of[storage] = key
            self.storages[key] = storage
        pid = ("storage", torch_class, key, "cpu", numel)
        return (*pid, None) if self._legacy else pid


class _Archive:
    """A zip as ``PyTorchStreamWriter`` writes it: stored members on 64-byte boundaries, sizes after the data."""

    def __init__(self, file: BinaryIO, root: str) -> None:
        self._file = file
        self._root = root
        self._position = 0
        self._directory = bytearray()
        self._count = 0
        self._crc_of_crcs = 0

    def add(self, name: str, data: bytes) -> None:
        self.stream(name, len(data), (data,))

    def stream(self, name: str, size: int, chunks: Chunks) -> None:
        """Append the member *name* of *size* bytes."""
        full_name = f"{self._root}/{name}".encode()
        offset = self._position
        large, far = size >= _LIMIT, offset >= _LIMIT
        zip64 = _zip64(size if large else None, offset if far else None)
        padding = -(offset + _LOCAL_HEADER.size + len(full_name) + len(zip64) + 4) % 64
        extra = zip64 + b"FB" + struct.pack("<H", padding) + b"Z" * padding
        flags = _UTF8_NAME | (_SIZES_AFTER_DATA if size else 0)
        fields = (b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(full_name), len(extra))
        self._write(_LOCAL_HEADER.pack(*fields) + full_name + extra)
        crc = _copy(chunks, size, self._file, name)
        self._position += size
        if size:
            self._write(struct.pack("<4sIQQ" if large or far else "<4sIII", b"PK\x07\x08", crc, size, size))
        short = _LIMIT if large else size
        self._directory += _DIRECTORY_ENTRY.pack(
            *(b"PK\x01\x02", 0, 0, flags, 0, 0, 0, crc, short, short, len(full_name), len(zip64)),
            *(0, 0, 0, 0, _LIMIT if far else offset),
        )
        self._directory += full_name + zip64
        self._count += 1
        self._crc_of_crcs = zlib.crc32(struct.pack("<I", crc), self._crc_of_crcs)

    def fingerprint(self) -> bytes:
        """Forty digits that depend on everything written so far; torch's are computed in another way."""
        return f"{self._position:020d}{self._crc_of_crcs:020d}".encode()

    def finish(self) -> None:
        """Write the central directory; torch always adds the zip64 end records."""
        start, size, count = self._position, len(self._directory), self._count
        self._write(bytes(self._directory))
        self._write(struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1))
        short = min(count, 0xFFFF)
        self._write(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, short, short, size, min(start, _LIMIT), 0))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._position += len(data)


def _zip64(size: int | None, offset: int | None) -> bytes:
    """The zip64 extra field for what does not fit its 32-bit field; torch gives it to both headers alike."""
    fields = [size, size] if size is not None else []
    fields += [offset] if offset is not None else []
    if not fields:
        return b""
    return struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields)


def _copy(chunks: Chunks, size: int, file: BinaryIO, name: str) -> int:
    """Write *chunks*, which must be *size* bytes together; returns their CRC-32."""
    crc = written = 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
        written += file.write(chunk)
    if written != size:
        raise ValueError(f"storage {name} has {written} bytes of data where its type and length ask for {size}")
    return crc
