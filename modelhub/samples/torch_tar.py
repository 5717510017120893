"""Checkpoints as torch wrote them before 0.1.10: a tar of ``sys_info``, ``pickle``, ``tensors`` and ``storages``."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Mapping

from modelhub.samples.pickling import STORAGE_CLASSES, Import, Persistent, contiguous_strides, dumps
from modelhub.samples.weights import Storage, Weight


def write_torch_tar(path: str | os.PathLike[str], weights: Mapping[str, Weight]) -> None:
    """Write the state dict *weights* to *path*; its bytes are kept in memory.

    Raises ``ValueError`` for element types that have no storage class.
    """
    keys: dict[Storage, int] = {}
    for weight in weights.values():
        if weight.dtype not in STORAGE_CLASSES:
            raise ValueError(f"the tar format has no {weight.dtype.label} storages")
        keys.setdefault(weight.storage, 94_000_000_000_000 - 64 * len(keys))
    tensors = {name: 95_000_000_000_000 + 64 * index for index, name in enumerate(weights)}
    system = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 8}}
    members = {
        "sys_info": dumps(system),
        "pickle": dumps({name: Persistent(str(tensors[name])) for name in weights}),
        "tensors": _tensors(weights, tensors, keys),
        "storages": _storages(keys),
    }
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _storages(keys: Mapping[Storage, int]) -> bytes:
    out = bytearray(dumps(len(keys)))
    for storage, key in keys.items():
        out += dumps((key, "cpu", Import("torch", STORAGE_CLASSES[storage.dtype])))
        out += struct.pack("<q", storage.numel)
        out += b"".join(storage.chunks())
    return bytes(out + dumps([]))


def _tensors(weights: Mapping[str, Weight], keys: Mapping[str, int], storages: Mapping[Storage, int]) -> bytes:
    out = bytearray(dumps(len(weights)))
    for name, weight in weights.items():
        kind = STORAGE_CLASSES[weight.dtype].replace("Storage", "Tensor")
        out += dumps((keys[name], storages[weight.storage], Import("torch", kind)))
        strides = contiguous_strides(weight.shape) if weight.strides is None else weight.strides
        out += struct.pack(
            f"<i4x{len(weight.shape)}q{len(strides)}qq", len(strides), *weight.shape, *strides, weight.offset
        )
    return bytes(out)
