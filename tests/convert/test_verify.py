"""Verification finds every difference between a file and what was planned, by itself and whatever wrote the file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from modelhub.container import open_path
from modelhub.container.safetensors import encode_header
from modelhub.convert import execute, plan_conversion, verify
from modelhub.errors import VerificationFailed
from modelhub.tensors import DType

verify_module = sys.modules["modelhub.convert.verify"]


@pytest.fixture
def converted(tmp_path: Path):
    """(plan, path of the written file): two plain tensors and a transposed one."""
    torch.manual_seed(1)
    weights = {"a": torch.randn(700, 900), "b": torch.randn(16).half(), "t": torch.randn(30, 40).T}
    torch.save(weights, tmp_path / "m.pt")
    with open_path(tmp_path / "m.pt") as container:
        plan = plan_conversion(container)
        execute(plan, tmp_path / "m.safetensors")
        yield plan, tmp_path / "m.safetensors"


def rewrite_header(plan, path: Path, entries, metadata) -> None:
    data = path.read_bytes()[len(plan.outputs[0].header) :]
    path.write_bytes(encode_header(entries, metadata) + data)


def entries_of(plan) -> list[tuple[str, DType, tuple[int, ...], int]]:
    return [(p.name, p.dtype, p.shape, p.nbytes) for p in plan.tensors]


def test_a_true_copy_passes(converted):
    """The written file passes, and every byte of its tensors is compared."""
    plan, path = converted
    compared = []
    verify(plan, str(path), progress=compared.append)
    assert sum(compared) == 700 * 900 * 4 + 16 * 2 + 30 * 40 * 4


@pytest.mark.parametrize("name", ["a", "b", "t"])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_one_wrong_bit_is_found(converted, name, where):
    """In the first, a middle or the last byte of any tensor, copied as it lies or gathered."""
    plan, path = converted
    (planned,) = [p for p in plan.tensors if p.name == name]
    at = len(plan.outputs[0].header) + planned.begin + round((planned.end - planned.begin - 1) * where)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(VerificationFailed, match=rf"m\.pt: the bytes of tensor '{name}' differ"):
        verify(plan, str(path))


def test_swapped_names_are_found(converted):
    """Bytes are compared by name: the right bytes under another tensor's name are wrong."""
    plan, path = converted
    swapped = {"a": "t", "t": "a", "b": "b"}
    entries = [(swapped[name], dtype, shape, nbytes) for name, dtype, shape, nbytes in entries_of(plan)]
    rewrite_header(plan, path, entries, plan.outputs[0].metadata)
    with pytest.raises(VerificationFailed, match="safetensors reads tensor 'a' of the copy differently"):
        verify(plan, str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: (e[0], DType.U32, *e[2:]) if e[0] == "a" else e, "tensor 'a'"),
        (lambda e: (*e[:2], (900, 700), e[3]) if e[0] == "a" else e, "tensor 'a'"),
        (lambda e: ("c", *e[1:]) if e[0] == "b" else e, "tensor 'b'"),
    ],
)
def test_another_dtype_shape_or_name_is_found(converted, change, words):
    """The header that readers see is compared, not only the bytes."""
    plan, path = converted
    rewrite_header(plan, path, map(change, entries_of(plan)), plan.outputs[0].metadata)
    with pytest.raises(VerificationFailed, match=words):
        verify(plan, str(path))


def test_missing_metadata_is_found(converted):
    """Loaders refuse a file without its format, so that metadata is compared too."""
    plan, path = converted
    rewrite_header(plan, path, entries_of(plan), {})
    with pytest.raises(VerificationFailed, match="the metadata"):
        verify(plan, str(path))


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"!", lambda d: d[:8] + b"[" + d[9:]])
def test_a_file_that_the_library_does_not_open_is_found(converted, damage):
    """What the safetensors library refuses is no safetensors file, whatever modelhub's reader thinks."""
    plan, path = converted
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VerificationFailed, match=r"m\.pt: the safetensors library does not open the copy: "):
        verify(plan, str(path))


def test_a_wrong_gathering_is_found_although_it_is_repeatable(converted, monkeypatch):
    """Elements are also compared one by one by the definition of strides, not only by the code that moved them."""
    plan, path = converted
    (planned,) = [p for p in plan.tensors if p.name == "t"]

    (piece,) = planned.pieces

    def not_transposed(_planned):
        yield 0, memoryview(piece.source.read_at(piece.tensor.start, planned.nbytes))

    data = bytearray(path.read_bytes())
    begin = len(plan.outputs[0].header) + planned.begin
    data[begin : begin + planned.nbytes] = piece.source.read_at(piece.tensor.start, planned.nbytes)
    path.write_bytes(data)
    monkeypatch.setattr(verify_module, "stream", not_transposed)
    with pytest.raises(VerificationFailed, match="tensor 't' differ"):
        verify(plan, str(path))


def test_numpy_is_not_needed(converted, tmp_path, monkeypatch):
    """The library asks for numpy to open a file; a user need not have it."""
    plan, path = converted
    (tmp_path / "numpy.py").write_text("raise ImportError('no numpy here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    verify(plan, str(path))


def test_the_current_folder_is_not_searched_for_the_library(converted, tmp_path, monkeypatch):
    """A safetensors.py beside a download must not be run."""
    plan, path = converted
    (tmp_path / "safetensors.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    verify(plan, str(path))
    assert not (tmp_path / "ran").exists()
