"""Every format, every element type, every kind of view: what was saved is what is read, and what is converted."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modelhub.convert import convert
from modelhub.samples.torch_tar import write_torch_tar
from modelhub.samples.weights import Storage, Weight
from modelhub.tensors import DTYPE_BY_TORCH
from modelhub.weights.reading import read_arrays
from modelhub.weights.torch_arrays import TorchMaker
from tests.container.build import build_zip, opened, saved, split_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

Tensors = dict[str, torch.Tensor]

OLD = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
COMPLEX = ["complex64", "complex128"]
NEW = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
NUMPY = [*OLD, "complex64", "uint16", "uint32", "uint64"]
NUMPY.remove("bfloat16")


def views(dtype: str) -> Tensors:
    """One storage, seen in every way."""
    base = (torch.arange(120) % 7).reshape(8, 15).to(getattr(torch, dtype))
    flat = base.reshape(-1)
    return {
        "base": base,
        "transposed": base.t(),
        "slice": base[2:5],
        "column": base[:, 3],
        "strided": base[::2, 1::3],
        "expanded": flat[4:5].expand(3, 6),
        "permuted": base.reshape(2, 4, 15).permute(2, 0, 1),
        "last": base.reshape(1, 2, 4, 15).contiguous(memory_format=torch.channels_last),
        "zero": base[3, 5],
        "none": base[:0],
        "empty": torch.empty(0, dtype=base.dtype),
        "one": flat[7:8].reshape(1, 1, 1),
    }


def as_zip(tensors: Tensors) -> bytes:
    return saved(tensors)


def as_legacy(tensors: Tensors) -> bytes:
    return saved(tensors, legacy=True)


def as_deflated_zip(tensors: Tensors) -> bytes:
    parts = split_checkpoint(saved(tensors))
    for part in parts:
        part.method = 8
    return build_zip(parts)


def as_big_endian_zip(tensors: Tensors) -> bytes:
    """As torch writes it on a machine that is."""
    parts = split_checkpoint(saved(tensors))
    dtype = next(iter(tensors.values())).dtype
    unit = dtype.itemsize // (2 if dtype.is_complex else 1)
    for part in parts:
        if "/data/" in part.name:
            part.data = np.frombuffer(part.data, f"V{unit}").view("u1").reshape(-1, unit)[:, ::-1].tobytes()
        elif part.name.endswith("/byteorder"):
            part.data = b"big"
    return build_zip(parts)


def as_tar(tensors: Tensors, path) -> bytes:
    storages: dict[int, Storage] = {}
    weights = {}
    for name, tensor in tensors.items():
        raw = bytes(tensor.untyped_storage())
        dtype = DTYPE_BY_TORCH[str(tensor.dtype).removeprefix("torch.")]
        made = Storage(dtype, len(raw) // dtype.itemsize, lambda raw=raw: (raw,))
        storage = storages.setdefault(tensor.untyped_storage().data_ptr(), made)
        weights[name] = Weight(storage, tuple(tensor.shape), tensor.storage_offset(), tensor.stride())
    write_torch_tar(path, weights)
    return path.read_bytes()


def as_torchscript(tensors: Tensors) -> bytes:
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def pickled(protocol: int) -> Callable[[Tensors], bytes]:
    return lambda tensors: pickle.dumps(tensors, protocol)


def pickled_arrays(protocol: int) -> Callable[[Tensors], bytes]:
    return lambda tensors: pickle.dumps({name: tensor.numpy() for name, tensor in tensors.items()}, protocol)


def npz(save: Callable) -> Callable[[Tensors], bytes]:
    def write(tensors: Tensors) -> bytes:
        buffer = io.BytesIO()
        save(buffer, **{name: tensor.numpy() for name, tensor in tensors.items()})
        return buffer.getvalue()

    return write


FORMATS = {
    "zip": (as_zip, OLD + COMPLEX + NEW),
    "legacy": (as_legacy, OLD + COMPLEX + NEW),
    "deflated-zip": (as_deflated_zip, OLD + COMPLEX + NEW),
    "big-endian-zip": (as_big_endian_zip, OLD + COMPLEX),
    "tar": (as_tar, OLD),
    "torchscript": (as_torchscript, OLD),
    "pickle-2": (pickled(2), OLD + COMPLEX),
    "pickle-5": (pickled(5), OLD + COMPLEX),
    "arrays-0": (pickled_arrays(0), NUMPY),
    "arrays-2": (pickled_arrays(2), NUMPY),
    "arrays-5": (pickled_arrays(5), NUMPY),
    "npz": (npz(np.savez), NUMPY),
    "deflated-npz": (npz(np.savez_compressed), NUMPY),
}


def written(form: str, tensors: Tensors, folder) -> bytes:
    write = FORMATS[form][0]
    return as_tar(tensors, folder / "made") if write is as_tar else write(tensors)


def same(found: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Equal in type, shape and every bit."""
    if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
        return False
    left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found, tensor))
    return torch.equal(left, right)


@pytest.mark.parametrize(
    ("form", "dtype"), [(form, dtype) for form, (_, dtypes) in FORMATS.items() for dtype in dtypes]
)
def test_read(form, dtype, tmp_path):
    """The tensors of a file, in the memory of torch, are those that were saved."""
    tensors = views(dtype)
    container = opened(written(form, tensors, tmp_path))
    assert not {odd.rule for odd in container.anomalies} - {"torch.compressed-storage", "torch.script"}
    found = read_arrays(container.state_dict.values(), container.source, TorchMaker())
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensor) for name, tensor in tensors.items())
    assert not container.state_dict.leftovers


@pytest.mark.parametrize("form", FORMATS)
def test_converted(form, tmp_path):
    """The safetensors file that it becomes has the same tensors, laid out plainly."""
    dtype = "float32" if form == "tar" else "int16"
    tensors = views(dtype)
    (tmp_path / "m.bin").write_bytes(written(form, tensors, tmp_path))
    found = load_file(convert(tmp_path / "m.bin", tmp_path / "m.safetensors", salvage=form == "torchscript").target)
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensor) for name, tensor in tensors.items())


def test_checksums_of_stored_members_are_not_needed(tmp_path):
    """A checkpoint that torch wrote without checksums is read, be it packed again or not."""
    parts = split_checkpoint(saved(views("float32")))
    for part in parts:
        part.crc = 0 if "/data/" in part.name else None
        part.method = 8
    data = build_zip(parts)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is not None
    container = opened(data)
    found = read_arrays(container.state_dict.values(), container.source, TorchMaker())
    assert all(same(found[name], tensor) for name, tensor in views("float32").items())
