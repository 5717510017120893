"""Numbers cast to another width are the nearest ones, and none becomes infinite."""

from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelhub.convert import casts
from modelhub.convert.casts import Cast, check_casts_are_possible
from modelhub.convert.element import is_element
from modelhub.errors import ConversionError, MissingExtra
from modelhub.tensors import DType, StorageRef, TensorInfo

TORCH = {DType.F16: torch.float16, DType.BF16: torch.bfloat16, DType.F32: torch.float32, DType.F64: torch.float64}
RANGE = {DType.F16: 65504.0, DType.BF16: 3.3895313892515355e38, DType.F32: 3.4028234663852886e38}
PAIRS = list(itertools.permutations(TORCH, 2))


@pytest.fixture(params=["NumKong", "numpy"])
def by(request, monkeypatch):
    """What does the arithmetic; a processor may have no NumKong."""
    if request.param == "numpy":
        monkeypatch.setattr(casts, "_narrower", lambda: None)
    elif casts._narrower() is None:
        pytest.skip("NumKong is not installed")
    casts._table.cache_clear()
    yield
    casts._table.cache_clear()


def cast(data: bytes, source: DType, target: DType) -> bytes:
    return bytes(Cast(source, target, "m.ckpt: tensor 'w'")(memoryview(data)))


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def samples(dtype: DType) -> torch.Tensor:
    """Every number of 16 bits; of wider types many, on, beside and between those of 16 bits. Finite ones only."""
    if dtype in (DType.F16, DType.BF16):
        values = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(TORCH[dtype])
    else:
        generator = torch.Generator().manual_seed(1)
        grids = [samples(DType.F16).to(torch.float64), samples(DType.BF16).to(torch.float64)]
        ties = [(grid.sort().values[1:] + grid.sort().values[:-1]) / 2 for grid in grids]
        noise = torch.randn(1 << 16, dtype=torch.float64, generator=generator) * 2.0 ** torch.randint(
            -40, 15, (1 << 16,), generator=generator
        )
        near = torch.cat([*grids, *ties, noise])
        near = torch.cat([near, near * (1 + 2**-30), near * (1 - 2**-30), near * (1 + 2**-23)])
        values = near.to(TORCH[dtype])
    return values[values.isfinite()]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda d: d.label)
@pytest.mark.usefixtures("by")
def test_a_cast_is_torchs_bit_for_bit(source, target):
    """Of finite numbers in range; from 64 bits torch rounds twice, so there the definition decides."""
    values = samples(source)
    if target in RANGE:
        values = values[values.abs().to(torch.float64) <= RANGE[target]]
    data = raw(values)
    result = cast(data, source, target)
    if source is not DType.F64:
        assert result == raw(values.to(TORCH[target]))
    tensor = TensorInfo("w", source, (len(values),), StorageRef("0", 0, len(data)))
    for index in range(0, len(values), 101):
        before = data[index * source.itemsize : (index + 1) * source.itemsize]
        after = result[index * target.itemsize : (index + 1) * target.itemsize]
        assert is_element(after, before, tensor, target), (before.hex(), after.hex())


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(-3, 3))
def test_64_bits_are_rounded_once(value, ulps):
    """Numbers beside the middle between two F32 or BF16 numbers go to the nearer one, not first to the middle."""
    bits = (struct.unpack("<Q", struct.pack("<d", value))[0] + ulps) % (1 << 64)
    for target in (DType.BF16, DType.F16, DType.F32):
        data = struct.pack("<Q", bits)
        number = struct.unpack("<d", data)[0]
        if math.isfinite(number) and abs(number) <= RANGE[target]:
            tensor = TensorInfo("w", DType.F64, (1,), StorageRef("0", 0, 8))
            assert is_element(cast(data, DType.F64, target), data, tensor, target)


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda d: d.label)
def test_nan_and_infinity_stay_what_they_are(source, target):
    """Quiet and signalling NaNs of either sign are NaNs afterwards; infinities and both zeros keep their sign."""
    values = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0], dtype=TORCH[source])
    data = bytearray(raw(values))
    if source is DType.BF16:
        data += struct.pack("<2H", 0x7F81, 0xFFFF)
    elif source is DType.F32:
        data += struct.pack("<2I", 0x7F800001, 0xFFFFFFFF)
    elif source is DType.F64:
        data += struct.pack("<2Q", 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF)
    else:
        data += struct.pack("<2H", 0x7C01, 0xFFFF)
    result = torch.frombuffer(bytearray(cast(bytes(data), source, target)), dtype=TORCH[target])
    assert result.isnan().tolist() == [True, True, False, False, False, False, True, True]
    assert result[2:6].tolist() == [math.inf, -math.inf, 0.0, 0.0]
    assert result[2:6].signbit().tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        (DType.F32, DType.F16, 65520.0),
        (DType.F32, DType.F16, -1e20),
        (DType.BF16, DType.F16, 1e10),
        (DType.F64, DType.F32, 3.5e38),
        (DType.F64, DType.BF16, 1e300),
        (DType.F32, DType.BF16, 3.4e38),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_the_tensor(source, target, value):
    """An infinity among the weights makes every image black: nobody wants it silently."""
    data = raw(torch.tensor([1.0, value], dtype=TORCH[source]))
    with pytest.raises(ConversionError, match=r"m\.ckpt: tensor 'w' has the value .* out of range in") as caught:
        cast(data, source, target)
    assert "--dtype" in caught.value.hint


@pytest.mark.parametrize("target", [DType.F16, DType.BF16], ids=lambda d: d.label)
def test_the_bytes_are_the_same_with_and_without_numkong(target, monkeypatch):
    """The same input and options give the same file, whatever is installed: NaNs of every sign and payload too."""
    if casts._narrower() is None:
        pytest.skip("NumKong is not installed")
    generator = np.random.default_rng(1)
    bits = generator.integers(0, 1 << 32, 1 << 16, dtype=np.uint64).astype("<u4")
    values = bits.view("<f4")
    data = bits[~(np.isfinite(values) & (np.abs(values) > RANGE[target]))].tobytes()
    with_it = cast(data, DType.F32, target)
    monkeypatch.setattr(casts, "_narrower", lambda: None)
    assert cast(data, DType.F32, target) == with_it


@pytest.mark.parametrize("target", [DType.F16, DType.BF16], ids=lambda d: d.label)
def test_elements_that_lie_across_words(target):
    """Bytes that begin anywhere in memory are cast as those that begin at a word."""
    values = np.linspace(-2, 2, 999, dtype="<f4").tobytes()
    shifted = memoryview(b"?" + values)[1:]
    assert bytes(Cast(DType.F32, target, "x")(shifted)) == cast(values, DType.F32, target)


@pytest.mark.parametrize(("wrong", "kept"), [("float16", 0xFFFFE000), ("bfloat16", 0xFFFF0000)])
def test_numkong_is_not_used_where_it_rounds_otherwise(monkeypatch, wrong, kept):
    """A processor on which it rounds another way than to the nearest, ties to even, gets numpy's arithmetic."""
    numkong = pytest.importorskip("numkong")
    real = numkong.astype

    def towards_zero(values, dtype, **more):
        cut = (values.view("<u4") & np.uint32(kept)).view("<f4") if dtype == wrong else values
        return real(cut, dtype, **more)

    monkeypatch.setattr(numkong, "astype", towards_zero)
    assert casts._narrower.__wrapped__() is None


@pytest.mark.parametrize("wrong", ["float16", "bfloat16"])
def test_numkong_is_not_used_where_it_takes_small_numbers_for_zero(monkeypatch, wrong):
    """Processors have instructions that do not know numbers below the normal range; a weight keeps its own."""
    numkong = pytest.importorskip("numkong")
    real = numkong.astype
    least = {"float16": 2.0**-14, "bfloat16": 2.0**-126}[wrong]

    def flushed(values, dtype, **more):
        kept = np.where(np.abs(values) < least, np.float32(0), values) if dtype == wrong else values
        return real(kept, dtype, **more)

    monkeypatch.setattr(numkong, "astype", flushed)
    assert casts._narrower.__wrapped__() is None


def test_the_largest_number_that_still_rounds_down_is_kept():
    """65519.996 is nearer to 65504 than to the next power: no overflow."""
    data = struct.pack("<f", np.nextafter(np.float32(65520), np.float32(0)))
    assert cast(data, DType.F32, DType.F16) == struct.pack("<e", 65504.0)


def test_without_numpy_the_extra_is_named(monkeypatch):
    """numpy is only needed for casts, so it may be missing; the error says what to install."""
    check_casts_are_possible()
    monkeypatch.setattr(casts, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match="numpy") as caught:
        check_casts_are_possible()
    assert "cast" in caught.value.hint
