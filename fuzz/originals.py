"""Small whole files of every kind that modelhub opens or recognises, to be broken."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from modelhub.samples.layouts import lora
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import random_weight, random_weights
from modelhub.samples.wrappers import a1111_embedding, lightning_checkpoint
from modelhub.tensors import DType

_LZ4 = "BCJNGGxAKQAAAAAAAAAWJAAAAFKABJUeAAEA4n2UjAFhlF2UKEsBR0AEFACgjAR0ZXh0lGVzLgAAAACNlW0D"
_ZSTD = "KLUv/SQpNQEA8IAElR4AfZSMAWGUXZQoSwFHQAQAjAR0ZXh0lGVzLgIAQNQBvAFmahA1"
_SEVEN = """
N3q8ryccAASz8KThxQAAAAAAAAAWAAAAAAAAAB0tjI8BADaABJUSAAAAAAAAAH2UjAFhlF2UKEsBSwJLA2VzLmNwb3NpeApzeXN0ZW0KKFMndHJ1
ZScKdFIuAOAApACCXQAAgTMHrg/Rp0+UoIppsLnhSq6hiO9BhK+kiC0sRkPPM4uR+swt5uJpDvhnirKsmV3tY800FhqGheP6XGvv9RSe0oUjOMon
koM3THPjBLE6eezWvlbPU3bXPV7oz9kXJcxsNn1eivFLGB+wVWrAaEtksiE88+w0K9ac0RIvNxA8AAAAABcGOwEJgIoABwsBAAEhIQEYDIClAAA=
"""
"""Files that only packages make, in base64: pickled plain data, and an archive that calls ``os.system('true')``."""


def originals() -> dict[str, bytes]:
    """The files, by name; random weights, always the same."""
    weights = random_weights({"a.weight": (DType.F16, (4, 6)), "b": (DType.BF16, (3,)), "c": (DType.I64, ())}, seed=1)
    hostile = {"a": weights["b"], "b": Call(Import("os", "getcwd"))}
    checkpoint = lightning_checkpoint(weights, callbacks=True)
    zipped = _written(write_torch_zip, checkpoint)
    legacy = _written(write_torch_legacy, checkpoint)
    array = _npy("<f4", (2, 3), bytes(24))
    objects = _npy("|O", (1,), pickle.dumps([1, "a"]))
    files = {
        "zip.ckpt": zipped,
        "legacy.ckpt": legacy,
        "hostile.pt": _written(write_torch_zip, hostile),
        "hostile-legacy.pt": _written(write_torch_legacy, hostile),
        "object.pkl": dumps({"a": [1, 2.5, "text", b"bytes"], "b": Call(Import("os", "getcwd"))}),
        "frames.pkl": pickle.dumps({str(n): [n, float(n), str(n) * n] for n in range(40)}, 5),
        "text.pkl": pickle.dumps({"a": [1, 2.5, "text"], "b": (True, None)}, 0),
        "model.safetensors": _written(write_safetensors, weights, {"format": "pt", "note": "x"}),
        "array.npy": array,
        "objects.npy": objects,
        "arrays.npz": _zip({"a.npy": array, "b.npy": objects}),
        "nested.zip": _zip({"inner.pt": zipped, "readme.txt": b"text"}, zipfile.ZIP_DEFLATED),
        "script.pt": _zip(
            {
                "m/data.pkl": dumps({"a": 1}),
                "m/constants.pkl": dumps(()),
                "m/code/__torch__.py": b"class M(Module):\n  pass\n",
                "m/version": b"3\n",
            }
        ),
        "old.tar": _tar({"pickle": dumps({"a": 1}), "storages": dumps(0), "tensors": dumps(0)}),
        "gguf.gguf": b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + b"\4\0\0\0\0\0\0\0name\x08\0\0\0\1\0\0\0\0\0\0\0x",
        "page.ckpt": b"<!DOCTYPE html><html><title>Sign in</title></html>",
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
        "empty.pt": b"",
    }
    pickled = files["object.pkl"]
    files |= {
        "zip.pt.gz": gzip.compress(zipped, mtime=0),
        "object.pkl.bz2": bz2.compress(pickled),
        "object.pkl.xz": lzma.compress(pickled),
        "object.pkl.z": zlib.compress(pickled),
    }
    files |= {
        "object.pkl.lz4": base64.b64decode(_LZ4),
        "object.pkl.zst": base64.b64decode(_ZSTD),
        "evil.7z": base64.b64decode(_SEVEN),
        "arrays.joblib": _joblib(),
        "old.tar.gz": gzip.compress(files["old.tar"], mtime=0),
        "deep.zip": _zip({"a.zip": files["nested.zip"], "b.npz": files["arrays.npz"]}, zipfile.ZIP_DEFLATED),
        "members.zip": _zip({"a.pkl": pickled}, zipfile.ZIP_BZIP2),
        "members.npz": _zip({"a.npy": objects}, zipfile.ZIP_LZMA),
        "both.safetensors": files["model.safetensors"] + files["hostile.pt"],
        "net.keras": _zip({"metadata.json": b"{}", "config.json": b'{"class_name": "Lambda", "module": "keras"}'}),
        "net.h5": b"\x89HDF\r\n\x1a\n" + bytes(40) + b'{"class_name": "Lambda"}',
        "net.onnx": b"\x08\x07\x12\x01x\x3a\x12\x2a\x10\x6a\x0e\x0a\x08location\x12\x02/x",
    }
    rank_one = dict(list(lora("sd-1", rank=1).items())[:6])
    files["lora.pt"] = _written(write_torch_zip, random_weights(rank_one))
    vectors = random_weight("*", DType.F32, (1, 768))
    files["embedding.pt"] = _written(write_torch_legacy, a1111_embedding("style", vectors))
    return files


def _written(write: Callable[..., None], *args: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "archive.bin")
        write(path, *args)
        with open(path, "rb") as file:
            return file.read()


def _npy(descr: str, shape: tuple[int, ...], data: bytes) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def _joblib() -> bytes:
    """A list of one array as joblib writes it."""
    dtype = b"cnumpy\ndtype\n\x8c\2f8\x89\x88\x87R"
    state = b"\x8c\5shape(K\3t\x8c\5dtype" + dtype + b"\x8c\5order\x8c\1C\x8c\x1bnumpy_array_alignment_bytesK\x10"
    head = b"\x80\4](cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(" + state + b"ub"
    padding = 16 - (len(head) + 1) % 16
    return head + bytes((padding,)) + b"\xff" * padding + struct.pack("<3d", 1, 2, 3) + b"e."


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return out.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
