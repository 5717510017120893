"""Checkpoints from before torch 0.1.10, compared with what torch itself loads of them."""

from __future__ import annotations

import io
import tarfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modelhub.convert import convert
from modelhub.samples.torch_tar import write_torch_tar
from modelhub.samples.weights import Weight, random_weight
from modelhub.scan import Verdict, scan
from modelhub.tensors import DType
from tests.container.build import opened, same_tensors

DTYPES = [DType.F16, DType.BF16, DType.F32, DType.F64, DType.I8, DType.U8, DType.I16, DType.I32, DType.I64, DType.BOOL]


def weights() -> dict[str, Weight]:
    """Every element type, and views of one storage."""
    made = {dtype.label: random_weight(dtype.label, dtype, (3, 4)) for dtype in DTYPES}
    base = random_weight("base", DType.F32, (6, 8))
    made |= {"base": base, "t": Weight(base.storage, (8, 6), 0, (1, 8)), "row": Weight(base.storage, (8,), 16)}
    made |= {"one": Weight(base.storage, (), 5), "none": Weight(base.storage, (0, 3))}
    return made


def tar(tmp_path, made=None) -> bytes:
    write_torch_tar(tmp_path / "m.pt", weights() if made is None else made)
    return (tmp_path / "m.pt").read_bytes()


def repacked(data: bytes, change) -> bytes:
    """The tar *data* with each member with the bytes that *change* gives for ``(TarInfo, bytes)``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for info in source:
            content = change(info, source.extractfile(info).read())
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_tensors_are_those_that_torch_loads(tmp_path):
    """Every type and view is what torch's own reader makes of it, and the file is understood to its last byte."""
    data = tar(tmp_path)
    container = opened(data, "m.pt")
    expected = torch.load(tmp_path / "m.pt", weights_only=False)  # our own file, written above
    assert (container.kind, container.anomalies, container.skipped) == ("torch-tar", (), ())
    assert same_tensors(data, container, expected)
    assert scan(container).verdict is Verdict.SAFE


def test_it_is_converted(tmp_path):
    """A tar converts like any checkpoint."""
    tar(tmp_path)
    found = load_file(convert(tmp_path / "m.pt").target)
    expected = torch.load(tmp_path / "m.pt", weights_only=False)  # our own file, written above
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in expected.items())


@pytest.mark.parametrize("member", ["storages", "tensors", "pickle"])
@pytest.mark.parametrize("cut", [1, 30, 200])
def test_members_that_are_cut_short_are_told(tmp_path, member, cut):
    """A member that ends too early is said to be not understood, and no tensor is made up."""
    data = repacked(tar(tmp_path), lambda info, content: content[:-cut] if info.name == member else content)
    container = opened(data, "m.pt")
    assert container.kind == "torch-tar"
    assert scan(container).verdict > Verdict.SAFE
    assert not container.state_dict


def _with_extra(data: bytes) -> bytes:
    out = io.BytesIO(data)
    with tarfile.open(fileobj=out, mode="a") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))
    return out.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        _with_extra,
        lambda data: data.replace(b"ustar\x0000", b"ustar\x0001").replace(b"sys_info\0", b"sys_info\1", 1),
        lambda data: data[:156] + b"2" + data[157:],
        lambda data: data[:345] + b"dir" + data[348:],
        lambda data: data + b"tail",
    ],
)
def test_tars_that_torch_does_not_write_are_not_safe(tmp_path, change):
    """Two members of a name, links, other headers and trailing bytes are how another reader sees another file."""
    assert scan(opened(change(tar(tmp_path)), "m.pt")).verdict > Verdict.SAFE


@settings(max_examples=150)
@given(st.data())
def test_no_damage_makes_it_raise(tmp_path_factory, data):
    """Whatever bytes are changed, it opens, and its tensors lie within the file."""
    whole = bytearray(tar(tmp_path_factory.mktemp("tar"), {"w": random_weight("w", DType.F32, (2, 3))}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 5000))] = data.draw(st.integers(0, 255))
    container = opened(bytes(whole), "m.pt")
    for tensor in (container.state_dict or {}).values():
        assert tensor.storage.end <= len(whole)
