"""A planned tensor's bytes are those of its pieces, one after the other, whatever they take."""

from __future__ import annotations

import numpy as np
import pytest

from modelhub.convert.base import Piece, PlannedTensor
from modelhub.convert.stream import BLOCK, Run, negate, runs, stream
from modelhub.errors import ChangedDuringRead, ConversionError
from modelhub.source import BytesSource
from modelhub.tensors import DType, StorageRef, TensorInfo


def piece(array: np.ndarray, dtype: DType, *, start: int = 8, **changes) -> Piece:
    """A source that holds *array*'s memory from *start* on, and the view of it that *array* is."""
    base = array if array.base is None else array.base
    offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    strides = tuple(s // array.itemsize for s in array.strides)
    data = bytes(start) + base.tobytes()
    storage = StorageRef("0", start, base.nbytes)
    return Piece(BytesSource("m.ckpt", data), TensorInfo("t", dtype, array.shape, storage, offset, strides, **changes))


def planned(dtype: DType, shape, *pieces: Piece) -> PlannedTensor:
    nbytes = sum(p.tensor.numel * dtype.itemsize for p in pieces)
    return PlannedTensor("w", dtype, tuple(shape), pieces, 100, 100 + nbytes)


def whole(tensor: PlannedTensor) -> bytes:
    out = bytearray(tensor.nbytes)
    given = 0
    for offset, data in stream(tensor):
        out[offset : offset + len(data)] = data
        given += len(data)
    assert given == tensor.nbytes
    return bytes(out)


def numbers(*shape: int, dtype: str = "<f4") -> np.ndarray:
    return np.random.default_rng(shape[0]).standard_normal(shape).astype(dtype)


def test_pieces_follow_each_other():
    """Rows of several tensors, of several files, contiguous and turned, become one tensor."""
    q, k, v = numbers(4, 6), numbers(6, 5).T, numbers(9, 6)[2:7]
    tensor = planned(DType.F32, (14, 6), *(piece(a, DType.F32) for a in (q, k, v)))
    assert whole(tensor) == np.concatenate([q, k, v]).tobytes()
    assert runs(tensor) is None


def test_a_tensor_of_plain_runs_says_where_they_are():
    """What only has to be copied is told by offset and length, so that it can be copied by the fastest way there is."""
    a, b = piece(numbers(4, 6), DType.F32, start=64), piece(numbers(9, 6)[2:7], DType.F32)
    assert runs(planned(DType.F32, (9, 6), a, b)) == (Run(a.source, 64, 96, 0), Run(b.source, 8 + 48, 120, 96))
    assert runs(planned(DType.F16, (9, 6), a, b)) is None


def test_a_cast_goes_block_by_block():
    """Offsets are those of the output's element type, also for elements that come in another order."""
    plain, turned = numbers(3, (BLOCK // 12) + 5), numbers(300, 700).T
    for array in (plain, turned):
        tensor = planned(DType.F16, array.shape, piece(array, DType.F32))
        assert whole(tensor) == np.ascontiguousarray(array).astype("<f2").tobytes()
    both = planned(DType.F64, (1,), piece(numbers(3), DType.F32), piece(numbers(4, dtype="<f8"), DType.F64))
    assert whole(both) == np.concatenate([numbers(3).astype("<f8"), numbers(4, dtype="<f8")]).tobytes()


def test_lazy_bits_are_applied_before_a_cast():
    """A negated tensor that is cast as well is both."""
    array = numbers(20, 30)
    tensor = planned(DType.F16, array.shape, piece(array, DType.F32, neg=True))
    assert whole(tensor) == (-array).astype("<f2").tobytes()


def test_a_value_out_of_range_is_named_by_its_name_in_the_output():
    """The file and the tensor are in the sentence."""
    array = np.full((3, 3), 7e4, "<f4")
    with pytest.raises(ConversionError, match=r"m\.ckpt: tensor 'w' has the value 70000"):
        whole(planned(DType.F16, array.shape, piece(array, DType.F32)))


def test_a_source_that_became_shorter_is_noticed():
    """Missing bytes are an error and never zeros."""
    for array in (numbers(8), numbers(2, 4).T):
        full = piece(array, DType.F32)
        short = Piece(BytesSource("m.ckpt", full.source.read_at(0, 20)), full.tensor)
        with pytest.raises(ChangedDuringRead, match="became shorter"):
            whole(planned(DType.F32, array.shape, short))


@pytest.mark.parametrize("dtype", [DType[kind + bits] for kind in "IU" for bits in ("8", "16", "32", "64")])
def test_integers_are_negated_modulo_their_size(dtype):
    """The smallest integer is its own opposite, as in every machine."""
    code = f"<{dtype.label[0].lower()}{dtype.itemsize}"
    array = np.array([0, 1, 5, np.iinfo(code).min, np.iinfo(code).max], dtype=code)
    data = bytearray(array.tobytes())
    negate(memoryview(data), dtype)
    assert bytes(data) == np.negative(array).tobytes()
