"""Tensors that do not lie in the file as safetensors wants them are put in order without loading them whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.convert import gather as gather_module
from modelhub.convert.element import element_offsets
from modelhub.convert.gather import c_strides, extent, gather, needs_gathering
from modelhub.source import BytesSource
from modelhub.tensors import DType, StorageRef, TensorInfo

STORAGE_START = 24
NUMPY = {DType.U8: "u1", DType.F16: "u2", DType.F32: "u4", DType.I64: "u8", DType.C64: "u8"}


def tensor_over(elements: int, dtype: DType, shape, strides, *, offset: int = 0, byteorder: str = "little"):
    """A source of *elements* random elements in a storage, and a tensor that looks at them."""
    data = np.random.default_rng(elements).bytes(elements * dtype.itemsize)
    storage = StorageRef("0", STORAGE_START, len(data), byteorder)
    tensor = TensorInfo("t", dtype, tuple(shape), storage, offset * dtype.itemsize, tuple(strides))
    return BytesSource("file", bytes(STORAGE_START) + data), data, tensor


def gathered(tensor: TensorInfo, source: BytesSource) -> bytes:
    """All pieces put together; every byte must be given exactly once."""
    out = bytearray(tensor.nbytes)
    given_bytes = 0
    for at, piece in gather(tensor, source):
        out[at : at + len(piece)] = piece
        given_bytes += len(piece)
    assert given_bytes == tensor.nbytes
    return bytes(out)


def by_numpy(tensor: TensorInfo, data: bytes) -> bytes:
    item = tensor.dtype.itemsize
    flat = np.frombuffer(data, NUMPY[tensor.dtype], offset=tensor.offset)
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, [s * item for s in tensor.strides])
    if tensor.storage.byteorder == "big":
        if tensor.dtype.is_complex:
            return np.ascontiguousarray(view).view("u4").byteswap().tobytes()
        view = view.byteswap()
    return view.tobytes()


@st.composite
def strided(draw):
    shape = draw(st.lists(st.integers(1, 7), min_size=0, max_size=4))
    strides = draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
    if draw(st.booleans()):  # a permutation of a contiguous tensor, the commonest case
        order = draw(st.permutations(range(len(shape))))
        inner = c_strides(tuple(shape[a] for a in order))
        strides = [inner[order.index(a)] for a in range(len(shape))]
    offset = draw(st.integers(0, 3))
    elements = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    dtype = draw(st.sampled_from(list(NUMPY)))
    byteorder = draw(st.sampled_from(["little", "big"]))
    return tensor_over(elements, dtype, shape, strides, offset=offset, byteorder=byteorder)


@given(strided(), st.sampled_from([8, 64, 1 << 20]))
def test_gathering_gives_the_values_in_c_order_whatever_the_strides(case, window):
    """Any strides, element size and byte order give what numpy gives, however small the window."""
    source, data, tensor = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather_module, "WINDOW", window)
        patch.setattr(gather_module, "_SPARSE", min(window, 32))
        assert gathered(tensor, source) == by_numpy(tensor, data)


@given(strided())
def test_an_element_is_found_by_the_definition_of_strides(case):
    """element_offsets points at the same elements, independently of how gather moves them."""
    source, data, tensor = case
    if tensor.storage.byteorder == "little":
        whole = by_numpy(tensor, data)
        item = tensor.dtype.itemsize
        for index, start in element_offsets(tensor, 10_000):
            assert source.read_at(start, item) == whole[index * item : (index + 1) * item]


@pytest.mark.parametrize(
    ("shape", "strides", "elements"),
    [
        pytest.param((700, 900), (1, 700), 630_000, id="transposed"),
        pytest.param((40, 50, 3, 3), (450, 1, 150, 50), 18_000, id="channels last"),
        pytest.param((1000, 500), (0, 1), 500, id="expanded rows"),
        pytest.param((500, 1000), (1, 0), 500, id="expanded columns"),
        pytest.param((100, 100), (5000, 7), 500_000, id="sparse slice"),
    ],
)
def test_a_piece_never_exceeds_the_window(monkeypatch, shape, strides, elements):
    """Memory is bounded by the window: no read of the source and no piece is longer."""
    window = 1 << 14
    monkeypatch.setattr(gather_module, "WINDOW", window)
    source, data, tensor = tensor_over(elements, DType.F16, shape, strides)
    longest = 0

    class Watched(BytesSource):
        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            nonlocal longest
            longest = max(longest, len(buffer))
            return super().readinto_at(offset, buffer)

    watched = Watched("file", bytes(STORAGE_START) + data)
    assert gathered(tensor, watched) == by_numpy(tensor, data)
    assert 0 < longest <= window
    assert all(len(piece) <= window for _, piece in gather(tensor, source))


def test_only_what_must_be_is_gathered():
    """Contiguous little-endian tensors, and big-endian single bytes, are copied as they lie."""
    _, _, plain = tensor_over(6, DType.F16, (2, 3), (3, 1))
    _, _, transposed = tensor_over(6, DType.F16, (2, 3), (1, 2))
    _, _, big = tensor_over(6, DType.F16, (2, 3), (3, 1), byteorder="big")
    _, _, big_bytes = tensor_over(6, DType.U8, (2, 3), (3, 1), byteorder="big")
    assert [needs_gathering(t) for t in (plain, transposed, big, big_bytes)] == [False, True, True, False]


def test_the_extent_is_what_is_touched():
    """From the first byte touched to the last: a strided slice reaches further than its size, an expanded one less."""
    _, _, sliced = tensor_over(9, DType.F16, (3,), (4,))
    _, _, expanded = tensor_over(3, DType.F16, (100, 3), (0, 1))
    _, _, empty = tensor_over(3, DType.F16, (0, 3), (3, 1))
    assert [extent(t) for t in (sliced, expanded, empty)] == [18, 6, 0]
