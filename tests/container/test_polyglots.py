"""Files that are two things at once are judged as both."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from modelhub.container import open_path
from modelhub.scan import Verdict, scan
from tests.container.build import Part, build_zip, hostile, imports, opened, rules, saved, torch_parts

EVIL = build_zip(torch_parts(hostile()))


def array(data: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(data, np.uint8))
    return stream.getvalue()


HOSTS = {
    "safetensors": safetensors.torch.save({"a": torch.frombuffer(bytearray(EVIL), dtype=torch.uint8)}),
    "numpy": array(EVIL),
    "pickle": pickle.dumps([1]) + EVIL,
    "torch-legacy": saved({"a": torch.ones(3)}, legacy=True) + EVIL,
    "image": b"\x89PNG\r\n\x1a\n" + bytes(20) + EVIL,
    "text": b"hello\n" * 3 + EVIL[:-2] + b"\3\0abc",
}


@pytest.mark.parametrize("kind", HOSTS)
def test_an_archive_behind_other_bytes_is_judged(kind):
    """Readers of zip archives look for one at the end of a file: a file that they take for one is judged as one too."""
    assert zipfile.is_zipfile(io.BytesIO(HOSTS[kind]))
    container = opened(HOSTS[kind])
    assert container.kind in (kind, "unknown")
    assert "container.polyglot" in rules(container)
    assert imports(container) >= imports(opened(hostile()))
    assert scan(container).verdict is Verdict.UNSAFE


def test_bytes_that_only_look_like_an_end_are_passed_over(tmp_path):
    """The signature of an end record alone makes no archive, nor does an archive among the objects of a pickle."""
    for blob in (b"PK\5\6" + bytes(40), b"x" * 50 + b"PK\5\6" + b"\1" * 18):
        data = safetensors.torch.save({"a": torch.frombuffer(bytearray(blob), dtype=torch.uint8)})
        assert scan(opened(data)).verdict is Verdict.SAFE
    safe = build_zip(torch_parts(pickle.dumps({}, 2)))
    assert scan(opened(pickle.dumps({"a": safe}, 4))).verdict is Verdict.SAFE
    (tmp_path / "e").write_bytes(b"PK")
    with open_path(tmp_path / "e") as container:
        assert container.kind in ("text", "unknown")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("names", [("x.npy",), ("archive/data.pkl", "archive/version"), ("archive/x.pkl",)])
def test_members_that_only_python_unpacks_are_judged(method, names):
    """A method of packing that torch refuses and zipfile knows does not hide a pickle; the archive is never safe."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"3\n" if name.endswith("version") else hostile())
    for data in (stream.getvalue(), _beside_a_checkpoint(stream.getvalue(), names[0], method)):
        container = opened(data)
        assert "zip.method" in rules(container)
        assert scan(container).verdict is Verdict.UNSAFE
    quiet = io.BytesIO()
    with zipfile.ZipFile(quiet, "w", method) as archive:
        archive.writestr("a.pkl", pickle.dumps([1]))
    assert scan(opened(quiet.getvalue())).verdict is Verdict.UNKNOWN


def _beside_a_checkpoint(data: bytes, name: str, method: int) -> bytes:
    """A checkpoint of torch's that has the packed member *name* of the archive *data* beside its own."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo(name)
    start = info.header_offset + 30 + len(name)
    packed = data[start : start + info.compress_size]
    flags = 2 if method == zipfile.ZIP_LZMA else 0
    odd = Part("archive/y", hostile(), method=method, packed=packed, flags=flags)
    return build_zip([*torch_parts(pickle.dumps({}, 2)), odd])
