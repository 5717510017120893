"""Whether a source's bytes are those that were once saved, and which bytes those are: its checksums and its digest.

Zip archives have a CRC-32 of every storage, which torch does not look at when it loads them; torch's older formats
have none, so of them nothing can be said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelhub.container.storages import Storages, StorageSource
from modelhub.container.zip_walk import walk_zip
from modelhub.convert.background import Stopped, block_buffer, blocks
from modelhub.convert.base import ConversionPlan, Integrity, Piece, file_of, stored
from modelhub.convert.crc32 import fastest_crc32
from modelhub.convert.gather import extent
from modelhub.errors import Malformed
from modelhub.source import Digest, Source
from modelhub.tensors import StorageRef

_NAMED = 3
_STORAGE = re.compile(r"/(data|constants)/\d+$|\.npy$")
"""Members of a checkpoint and of an ``.npz`` that are not read when the file is opened."""


@dataclass(frozen=True, slots=True)
class _Used:
    """The storages of one file that a plan reads, with the names of the tensors that lie in each, and to which byte
    copying unpacks those that are packed."""

    source: Source
    storages: dict[StorageRef, list[str]]
    unpacked: dict[StorageRef, int]


def check_sources(plan: ConversionPlan, stopped: Stopped, *, digest: bool = False) -> tuple[Integrity, ...]:
    """Read what *plan* reads of each of its files, in order, and compare the checksums of all storages that have one.

    With *digest* each file is read whole, for its SHA-256 as well, and with it the storages that *plan* leaves out.
    Raises :class:`Malformed` naming the tensors whose bytes are not those that were saved. A storage that is packed in
    its file is checked where it is unpacked, and here if only its beginning is.
    """
    used: dict[int, _Used] = {id(source): _Used(source, {}, {}) for source in plan.sources()}
    for tensor in plan.tensors:
        for piece in tensor.pieces:
            of_file = used[id(file_of(piece.source))]
            for storage in stored(piece):
                of_file.storages.setdefault(storage, []).append(tensor.name)
                of_file.unpacked[storage] = max(of_file.unpacked.get(storage, 0), _unpacked(piece))
    return tuple(_check(each, stopped, digest) for each in used.values())


def _unpacked(piece: Piece) -> int:
    """To which byte of its storage reading *piece* unpacks it; 0 where that is not known."""
    return piece.tensor.offset + extent(piece.tensor) if isinstance(piece.source, StorageSource) else 0


def _check(used: _Used, stopped: Stopped, digest: bool) -> Integrity:
    import hashlib

    crc32 = fastest_crc32()
    sha256 = hashlib.sha256() if digest else None
    buffer = block_buffer()
    position = 0
    damaged: list[str] = []
    left_out = _left_out(used)
    damaged_beside: list[str] = []
    checked = [storage for storage in used.storages if storage.plain and _has_checksum(storage)]
    read = [*checked, *(left_out if digest else ())]
    for storage in sorted(read, key=lambda storage: storage.start):
        if sha256 is not None:
            for _, data in blocks(used.source, position, storage.start, stopped, buffer):
                sha256.update(data)
        crc = 0
        for offset, data in blocks(used.source, storage.start, storage.start + storage.nbytes, stopped, buffer):
            crc = crc32(data, crc)
            if sha256 is not None:
                sha256.update(data[max(0, position - offset) :])
        position = max(position, storage.end)
        if crc != storage.crc and not stopped.is_set():
            if storage in used.storages:
                damaged += used.storages[storage]
            else:
                damaged_beside.append(storage.key)
    if sha256 is not None:
        for _, data in blocks(used.source, position, used.source.size, stopped, buffer):
            sha256.update(data)
    packed = [storage for storage in used.storages if storage.packing is not None and _has_checksum(storage)]
    for storage in packed:
        if used.unpacked[storage] < storage.nbytes:
            try:
                Storages(used.source).check(storage, lambda: not stopped.is_set())
            except Malformed:
                damaged += used.storages[storage]
    if damaged:
        raise Malformed(_sentence(used.source.name, damaged), hint="download it again; its bytes are damaged")
    bare = [storage for storage in used.storages if storage.nbytes and not _has_checksum(storage)]
    return Integrity(
        used.source,
        len(checked) + len(packed),
        len(bare),
        Digest(sha256.hexdigest()) if sha256 is not None else None,
        unread=0 if digest else len(left_out),
        damaged=tuple(damaged_beside),
    )


def _left_out(used: _Used) -> tuple[StorageRef, ...]:
    """The storages with a checksum in a zip archive that the plan does not read, called as the archive calls them.

    Packed ones are not among them, nor any of an archive that something is odd about: its members may overlap, and
    take forever to read.
    """
    archive = walk_zip(used.source) if used.source.read_at(0, 4) == b"PK\3\4" else None
    if archive is None or archive.anomalies:
        return ()
    starts = {storage.start for storage in used.storages}
    return tuple(
        StorageRef(member.name, member.start, member.size, crc=member.crc)
        for member in archive.members
        if _STORAGE.search(member.name) and member.stored and member.crc and member.start not in starts
    )


def _has_checksum(storage: StorageRef) -> bool:
    return (storage.crc if storage.packing is None else storage.packing.crc) is not None


def _sentence(name: str, damaged: list[str]) -> str:
    shown = ", ".join(f"{tensor!r:.100}" for tensor in damaged[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    tensors = "tensor" if len(damaged) == 1 else "tensors"
    return f"{name}: the bytes of {tensors} {shown}{more} do not match the checksum that they were saved with"
