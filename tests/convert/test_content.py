"""The content digest tells which tensors a model has, whatever file they lie in."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import modelhub
from modelhub.errors import ConversionError
from tests.convert.conftest import run


def by_definition(tensors: dict[str, torch.Tensor]) -> str:
    """The content digest as its documentation defines it, for float tensors of 32 and 16 bits and integers of 64."""
    labels = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    lines = []
    for name, tensor in tensors.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        entry = [name, labels[tensor.dtype], list(tensor.shape), hashlib.sha256(data).hexdigest()]
        lines.append(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    base = torch.randn(40, 30)
    return {"b": base, "a": base[5:9], "turned": base.T, "名前\n": torch.arange(7), "half": torch.randn(3).half()}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_and_its_conversion_have_the_same(tmp_path, weights, zipped):
    """The digest of a .ckpt, of its .safetensors, and the one computed on the way are those of the definition."""
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    done = run(tmp_path / "m.ckpt", tmp_path / "m.safetensors", tensor_digests=True)
    expected = by_definition(load_file(tmp_path / "m.safetensors"))
    assert modelhub.content_digest(tmp_path / "m.ckpt").sha256 == expected
    assert modelhub.content_digest(tmp_path / "m.safetensors").sha256 == expected
    assert done.digests[0].content.sha256 == expected
    assert done.digests[0].whole.sha256 == hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest()


def test_order_and_metadata_have_no_part_in_it(tmp_path, weights):
    """Files of the same tensors in another order and with another header have the same digest."""
    plain = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    save_file(plain, tmp_path / "a.safetensors")
    save_file(dict(reversed(plain.items())), tmp_path / "b.safetensors", {"title": "another"})
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "b.safetensors").read_bytes()
    assert modelhub.content_digest(tmp_path / "a.safetensors") == modelhub.content_digest(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "x": t["x"] + 1},
        lambda t: {"y": t["x"]},
        lambda t: {"x": t["x"].reshape(3, 2)},
        lambda t: {"x": t["x"].view(torch.int32)},
        lambda t: {**t, "z": torch.zeros(0)},
    ],
    ids=["values", "name", "shape", "type", "another"],
)
def test_whatever_a_model_is_made_of_has_a_part_in_it(tmp_path, change):
    """Another value, name, shape, element type or tensor is another digest."""
    tensors = {"x": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(change(tensors), tmp_path / "b.safetensors")
    assert modelhub.content_digest(tmp_path / "a.safetensors") != modelhub.content_digest(tmp_path / "b.safetensors")


def test_a_folder_has_none(tmp_path, weights):
    """A content digest is of one file."""
    (tmp_path / "model_index.json").write_text("{}")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConversionError, match="of one file"):
        modelhub.content_digest(tmp_path)
