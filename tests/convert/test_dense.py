"""Sparse and quantised tensors are refused by name, and on request written with all their elements."""

from __future__ import annotations

import zipfile

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modelhub import Verdict, scan
from modelhub.convert import ConversionOptions, convert, dtype_rule
from modelhub.convert.dense import ComputedSource
from modelhub.errors import LimitExceeded, Malformed, MissingExtra, UnsafeModelError, UnsupportedLayout
from modelhub.source import BytesSource

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning"),
]
DENSE = ConversionOptions(dense=True)


def random_sparse(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randint(-9, 9, shape, generator=generator)
    return (values * (torch.rand(shape, generator=generator) < 0.3)).to(dtype)


DTYPES = [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.float64, torch.uint8]
SPARSE = {
    "coo": lambda: random_sparse(30, 20).to_sparse(),
    "coo-3d": lambda: random_sparse(5, 6, 7).to_sparse(),
    "coo-hybrid": lambda: random_sparse(5, 6, 7).to_sparse(sparse_dim=1),
    "coo-repeated": lambda: torch.sparse_coo_tensor(
        torch.tensor([[0, 2, 0, 2], [1, 1, 1, 0]]), torch.tensor([1.0, 2.0, 3.0, 4.0]), (3, 2)
    ),
    "coo-empty": lambda: torch.zeros(4, 3).to_sparse(),
    "csr": lambda: random_sparse(30, 20).to_sparse_csr(),
    "csc": lambda: random_sparse(30, 20).to_sparse_csc(),
    "bsr": lambda: random_sparse(12, 20).to_sparse_bsr((3, 4)),
    "bsc": lambda: random_sparse(12, 20).to_sparse_bsc((3, 4)),
    **{f"coo-{dtype}": lambda dtype=dtype: random_sparse(8, 9, dtype=dtype).to_sparse() for dtype in DTYPES},
}
QUANTISED = {
    "qint8": lambda: torch.quantize_per_tensor(torch.randn(40, 30), 0.1, 3, torch.qint8),
    "quint8": lambda: torch.quantize_per_tensor(torch.randn(40, 30), 0.05, 128, torch.quint8),
    "qint32": lambda: torch.quantize_per_tensor(torch.randn(40, 30), 1e-6, 0, torch.qint32),
    "turned": lambda: torch.quantize_per_tensor(torch.randn(40, 30), 0.1, 3, torch.qint8).t(),
    "channels": lambda: torch.quantize_per_channel(
        torch.randn(6, 5, 3), torch.rand(6) + 0.1, torch.arange(6), 0, torch.qint8
    ),
    "inner-channels": lambda: torch.quantize_per_channel(
        torch.randn(6, 5, 3), torch.rand(5) + 0.1, torch.arange(5), 1, torch.quint8
    ),
}


@pytest.mark.parametrize("make", SPARSE.values(), ids=SPARSE)
def test_a_sparse_tensor_is_torchs_dense_one(tmp_path, make):
    """Every layout, element type and repeated index gives what to_dense gives, bit for bit."""
    tensor = make()
    torch.save({"w": tensor, "plain": torch.ones(2)}, tmp_path / "m.pt")
    done = convert(tmp_path / "m.pt", options=DENSE)
    found = load_file(done.target)
    assert found["w"].dtype == tensor.dtype
    assert torch.equal(found["w"], tensor.to_dense())
    assert torch.equal(found["plain"], torch.ones(2))
    assert any(note.startswith("w was a sparse tensor") for note in done.plan.notes)


@pytest.mark.parametrize("make", QUANTISED.values(), ids=QUANTISED)
def test_a_quantised_tensor_is_torchs_dequantised_one(tmp_path, make):
    """(value - zero point) * scale, to the last bit but one: torch multiplies and adds in one step."""
    torch.manual_seed(1)
    tensor = make()
    torch.save({"w": tensor}, tmp_path / "m.pt")
    found = load_file(convert(tmp_path / "m.pt", options=DENSE).target)["w"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, tensor.dequantize(), rtol=3e-7, atol=1e-6)


def test_dense_tensors_are_cast_like_others(tmp_path):
    """All else that can be asked for goes on top."""
    tensor = random_sparse(30, 20)
    torch.save({"w": tensor.to_sparse()}, tmp_path / "m.pt")
    options = ConversionOptions(dense=True, dtypes=(dtype_rule("fp16"),))
    assert torch.equal(load_file(convert(tmp_path / "m.pt", options=options).target)["w"], tensor.half())


@pytest.mark.parametrize("make", [SPARSE["csr"], QUANTISED["qint8"]], ids=["sparse", "quantised"])
def test_without_being_asked_it_is_a_refusal_that_says_how(tmp_path, make):
    """Many times the bytes, or other numbers than those stored, are nothing to write unasked."""
    torch.save({"w": make()}, tmp_path / "m.pt")
    with pytest.raises(UnsupportedLayout, match="tensor 'w' is of a kind") as caught:
        convert(tmp_path / "m.pt", salvage=True)
    assert "--dense" in caught.value.hint


def test_what_has_no_elements_stays_refused(tmp_path):
    """A tensor on the meta device has no data to make dense."""
    torch.save({"w": torch.empty(2, device="meta"), "v": torch.ones(1)}, tmp_path / "m.pt")
    with pytest.raises(UnsupportedLayout, match="'w'") as caught:
        convert(tmp_path / "m.pt", options=DENSE, salvage=True)
    assert "--dense" not in caught.value.hint


def test_indices_that_lead_out_of_the_tensor_are_an_error(tmp_path):
    """A hostile index is never used as an offset: nothing is written."""
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 7]]), torch.ones(2), (3,), check_invariants=False)
    torch.save({"w": sparse}, tmp_path / "m.pt")
    with pytest.raises(Malformed, match="its indices lead out of it"):
        convert(tmp_path / "m.pt", options=DENSE, salvage=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_without_numpy_the_extra_is_named(tmp_path, monkeypatch):
    """The error says what to install."""
    monkeypatch.setattr("modelhub.convert.dense.find_spec", lambda _name: None)
    torch.save({"w": random_sparse(3, 4).to_sparse()}, tmp_path / "m.pt")
    with pytest.raises(MissingExtra, match="numpy"):
        convert(tmp_path / "m.pt", options=DENSE, salvage=True)


def test_computed_bytes_can_be_had_from_anywhere():
    """Reads that begin or end within an element give the same bytes as one read of everything."""
    numbers = torch.arange(10, dtype=torch.int32).numpy()
    source = ComputedSource(BytesSource("f", b""), (), len(numbers), 4, lambda first, last: numbers[first:last])
    whole = numbers.tobytes()
    assert source.read_at(0, 100) == whole
    assert [source.read_at(n, 5) for n in range(45)] == [whole[n : n + 5] for n in range(45)]
    buffer = bytearray(7)
    assert source.readinto_at(36, memoryview(buffer)) == 4
    assert bytes(buffer[:4]) == whole[36:]


def test_quantised_gguf_is_what_its_own_package_makes_of_it(tmp_path):
    """Blocks become float32, or what was asked for; plain tensors are copied beside them."""
    values = np.random.default_rng(1).standard_normal((6, 512), np.float32)
    kinds = [gguf.GGMLQuantizationType[name] for name in ("Q4_0", "Q5_1", "Q8_0")]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "sd1")
    writer.add_tensor("plain", values.astype("f2"))
    for kind in kinds:
        writer.add_tensor(kind.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedLayout, match="Q4_0"):
        convert(tmp_path / "m.gguf")
    done = convert(tmp_path / "m.gguf", options=ConversionOptions(dense=True))
    half = convert(
        tmp_path / "m.gguf", tmp_path / "h.safetensors", options=ConversionOptions((dtype_rule("fp16"),), dense=True)
    )
    found, cast = load_file(done.target), load_file(half.target)
    assert torch.equal(found.pop("plain"), torch.from_numpy(values).half())
    assert found.keys() == {kind.name for kind in kinds}
    for kind in kinds:
        expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind))
        assert torch.equal(found[kind.name], expected) and torch.equal(cast[kind.name], expected.half())


def test_a_file_that_is_unknown_for_its_sparse_tensors_alone_needs_no_salvage(tmp_path):
    """torch believes their indices, so a scan does not call them safe; here each is checked, so --dense is enough."""
    path = tmp_path / "m.pt"
    torch.save({"w": random_sparse(3, 4).to_sparse(), "q": QUANTISED["channels"]()}, path)
    assert scan(path).verdict is Verdict.UNKNOWN
    done = convert(path, options=DENSE)
    assert "modelhub.salvaged" not in done.plan.outputs[0].metadata


@pytest.mark.parametrize("other", [torch.Generator(), torch.nn.Linear(1, 1)], ids=["unmodelled", "network"])
def test_what_else_is_unknown_stays_refused(tmp_path, other):
    """--dense answers for the tensors that it computes, and for nothing beside them."""
    torch.save({"w": random_sparse(3, 4).to_sparse(), "other": other}, tmp_path / "m.pt")
    with pytest.raises(UnsafeModelError, match="because it is unknown") as caught:
        convert(tmp_path / "m.pt", options=DENSE)
    assert "--salvage" in caught.value.hint


@pytest.mark.parametrize("make", [SPARSE["coo"], QUANTISED["channels"]], ids=["sparse", "quantised"])
def test_the_storages_that_elements_are_computed_of_are_checked(tmp_path, make):
    """Indices, values, scales: a bit of any of them that flipped is an error that names the tensor."""
    path = tmp_path / "m.pt"
    torch.save({"w": make()}, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if "/data/" in each.filename]
        stored = [archive.read(each) for each in members]
    (source,) = convert(path, tmp_path / "whole.safetensors", options=DENSE).sources
    assert (source.matched, source.unverifiable) == (len(members), 0)
    for number, member in enumerate(stored):
        at = data.index(member) + len(member) - 8
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Malformed, match="'w'"):
            convert(path, tmp_path / f"{number}.safetensors", options=DENSE)


def test_a_small_file_cannot_claim_millions_of_sparse_elements(tmp_path):
    """Indices and values that are one number, looked at again and again, would fill the memory: a limit."""
    count = 20_000_000
    indices, values = torch.zeros(1, 1, dtype=torch.int64).expand(1, count), torch.ones(1).expand(count)
    sparse = torch.sparse_coo_tensor(indices, values, (3,), check_invariants=False)
    torch.save({"w": sparse}, tmp_path / "m.pt")
    if (tmp_path / "m.pt").stat().st_size > 1 << 20:
        pytest.fail("torch saved the elements and not the views")
    with pytest.raises(LimitExceeded, match="'w' has more than"):
        convert(tmp_path / "m.pt", options=DENSE, salvage=True)
