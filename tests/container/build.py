"""Files for the container tests, built in code: archives byte by byte, checkpoints by torch."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import torch

from modelhub.container import Container, open_container
from modelhub.source import BytesSource
from modelhub.tensors import TensorInfo


@dataclass
class Part:
    """One member of :func:`build_zip`; what is ``None`` is what it should be."""

    name: str
    data: bytes = b""
    method: int = 0
    flags: int = 0
    local_flags: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    crc: int | None = None
    size: int | None = None
    extra: bytes = b""
    descriptor: bool = False
    before: bytes = b""
    offset: int | None = None
    attributes: int = 0
    packed: bytes | None = None


def build_zip(parts: list[Part], comment: bytes = b"", prefix: bytes = b"", shift: int = 0) -> bytes:
    """A zip of *parts*; *prefix* stands before it, *shift* is added to the directory's offset in the end record."""
    body = bytearray(prefix)
    directory = bytearray()
    for part in parts:
        body += part.before
        header = len(body) if part.offset is None else part.offset
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(part.data) + packer.flush() if part.method == 8 else part.data
        packed = part.packed or packed
        crc = zlib.crc32(part.data) if part.crc is None else part.crc
        size = len(part.data) if part.size is None else part.size
        flags = part.flags | (0x0008 if part.descriptor else 0)
        local_flags = flags if part.local_flags is None else part.local_flags
        raw, local_raw = part.name.encode(), (part.local_name or part.name).encode()
        if part.offset is None:
            numbers = (0, 0, 0) if part.descriptor else (crc, len(packed), part.local_size or size)
            fields = (20, local_flags, part.method, 0, 0, *numbers, len(local_raw), len(part.extra))
            body += struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + local_raw + part.extra + packed
            if part.descriptor:
                body += struct.pack("<4s3L", b"PK\7\x08", crc, len(packed), size)
        fields = (
            20,
            20,
            flags,
            part.method,
            0,
            0,
            crc,
            len(packed),
            size,
            len(raw),
            0,
            0,
            0,
            0,
            part.attributes,
            header,
        )
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + raw
    at = len(body) + shift
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(parts), len(parts), len(directory), at, len(comment))
    return bytes(body + directory + end + comment)


def torch_parts(value: bytes, storages: dict[str, bytes] | None = None, top: str = "archive") -> list[Part]:
    """The members of a checkpoint whose ``data.pkl`` is *value*."""
    parts = [Part(f"{top}/data.pkl", value)]
    parts += [Part(f"{top}/data/{key}", data) for key, data in (storages or {}).items()]
    return [*parts, Part(f"{top}/version", b"3\n")]


def split_checkpoint(data: bytes) -> list[Part]:
    """The members of a zip checkpoint written by torch, as parts to build another one from."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [Part(info.filename, archive.read(info)) for info in archive.infolist()]


def saved(value: Any, *, legacy: bool = False, protocol: int = 2) -> bytes:
    """What torch.save writes for *value*."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return buffer.getvalue()


class Marker:
    """Pickles as a call that would create a file; harmless even if it ran."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def hostile(protocol: int = 2) -> bytes:
    """A pickle that calls ``os.mkdir``."""
    return pickle.dumps(Marker("marker"), protocol=protocol)


def opened(data: bytes, name: str = "file") -> Container:
    """The container that *data* is."""
    return open_container(BytesSource(name, data))


def rules(container: Container) -> set[str]:
    """The rule ids of a container's anomalies."""
    return {odd.rule for odd in container.anomalies}


def imports(container: Container) -> set[str]:
    """Every global that a container's pickles would import."""
    return {each.qualified for program in container.pickles for each in program.trace.imports}


def tensor_of(data: bytes, info: TensorInfo) -> torch.Tensor:
    """The tensor that *info* describes in the file *data*, read without any of our own code."""
    storage = bytearray(data[info.storage.start : info.storage.start + info.storage.nbytes])
    dtype = getattr(torch, info.dtype.torch_name)
    if not info.numel:
        return torch.empty(info.shape, dtype=dtype)
    flat = torch.frombuffer(storage, dtype=torch.uint8)
    if info.storage.byteorder == "big":
        flat = flat.view(-1, info.dtype.itemsize).flip(1).reshape(-1).contiguous()
    flat = flat.view(dtype)
    strides = info.strides
    if strides is None:
        strides = torch.empty(info.shape, device="meta").stride()
    return flat.as_strided(info.shape, strides, info.offset // info.dtype.itemsize)


def same_tensors(data: bytes, container: Container, expected: dict[str, torch.Tensor]) -> bool:
    """Whether *container*, opened from *data*, describes exactly the tensors *expected*, bit for bit."""
    found = container.state_dict
    if found is None or list(found) != list(expected):
        return False
    return all(_bits(tensor_of(data, found[name])) == _bits(tensor) for name, tensor in expected.items())


def _bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.detach().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), bytes(flat.view(torch.uint8).numpy().tobytes())
