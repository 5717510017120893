"""Random weights are reproducible, finite and all different."""

from __future__ import annotations

import tracemalloc

import pytest
import torch

from modelhub.samples.layouts import lora
from modelhub.samples.weights import Weight, random_weight, random_weights, scalar, weight
from modelhub.tensors import DType

FLOATS = [DType.F16, DType.BF16, DType.F32, DType.F64]
SMALL_FLOATS = [DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ]
INTEGERS = [DType.U8, DType.I8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64, DType.U64, DType.BOOL]


def data_of(made: Weight) -> bytes:
    return b"".join(bytes(chunk) for chunk in made.storage.chunks())


def tensor_of(made: Weight) -> torch.Tensor:
    return torch.frombuffer(bytearray(data_of(made)), dtype=getattr(torch, made.dtype.torch_name)).reshape(made.shape)


@pytest.mark.parametrize("dtype", FLOATS + SMALL_FLOATS + INTEGERS, ids=lambda d: d.label)
def test_every_type_fills_its_storage(dtype: DType) -> None:
    """The chunks are as long as type and shape ask for, empty and 0-d tensors included, and the same each time."""
    for shape in ((), (0,), (3, 5), (70_001,), (2, 3, 40_000)):
        made = random_weight("w", dtype, shape, seed=3)
        assert len(data_of(made)) == made.storage.nbytes
        assert data_of(made) == data_of(random_weight("w", dtype, shape, seed=3))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.label)
def test_floats_look_like_weights(dtype: DType) -> None:
    """Floating point values are finite, around 0, with a deviation of 0.02."""
    values = tensor_of(random_weight("w", dtype, (100_000,))).double()
    assert torch.isfinite(values).all()
    assert abs(values.mean().item()) < 0.001
    assert values.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("dtype", SMALL_FLOATS, ids=lambda d: d.label)
def test_eight_bit_floats_are_finite(dtype: DType) -> None:
    """No 8-bit floating point value is a NaN or infinite."""
    assert torch.isfinite(tensor_of(random_weight("w", dtype, (70_000,))).float()).all()


def test_position_ids_count_up() -> None:
    """Integer buffers are the indices that they are in real files."""
    assert tensor_of(random_weight("position_ids", DType.I64, (1, 77))).tolist() == [list(range(77))]


def test_other_names_and_seeds_give_other_values() -> None:
    """Two tensors of one shape can be told apart, and so can two files of one layout."""
    shape = (1000,)
    assert data_of(random_weight("a", DType.F16, shape)) != data_of(random_weight("b", DType.F16, shape))
    assert data_of(random_weight("a", DType.F16, shape)) != data_of(random_weight("a", DType.F16, shape, seed=1))


def test_no_two_pages_of_a_tensor_are_alike() -> None:
    """Within a tensor no two aligned blocks repeat, so that bytes copied to the wrong place are noticed."""
    data = data_of(random_weight("w", DType.F16, (2_000_000,)))
    pages = [data[i : i + 4096] for i in range(0, len(data) - 4095, 4096)]
    assert len(set(pages)) == len(pages)


def test_a_large_tensor_takes_no_memory() -> None:
    """A tensor of a gigabyte is produced within a few megabytes."""
    made = random_weight("w", DType.F16, (500_000_000,))
    next(iter(made.storage.chunks()))
    tracemalloc.start()
    try:
        total = sum(len(chunk) for chunk in made.storage.chunks())
        assert total == 1_000_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_lora_has_half_its_rank_as_alpha() -> None:
    """Only ``alpha`` means something in a LoRA; it is a plausible number."""
    weights = random_weights(lora("sd-1", 8, text_encoder=False))
    alphas = {tensor_of(made).item() for name, made in weights.items() if name.endswith(".alpha")}
    assert alphas == {4.0}


def test_given_bytes_must_fit() -> None:
    """Data that is not as long as its shape asks for is refused; what fits is taken as it is."""
    assert tensor_of(weight(DType.I16, (2,), b"\1\0\2\0")).tolist() == [1, 2]
    assert tensor_of(scalar(DType.BF16, 0.5)).item() == 0.5
    with pytest.raises(ValueError, match="4 bytes, not 3"):
        weight(DType.I16, (2,), b"\1\0\2")
