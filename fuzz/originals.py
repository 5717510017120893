"""Small whole files of every kind that modelhub opens or recognises, to be broken."""

from __future__ import annotations

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
