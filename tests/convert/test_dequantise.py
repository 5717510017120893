"""Quantised blocks give the numbers that the reference in the gguf package gives, to the last bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from modelhub.container.ggml import BLOCK_BY_NAME, BLOCKS, PLAIN
from modelhub.convert.dequantise import DEQUANTISED, dequantised
from modelhub.errors import ChangedDuringRead, UnsupportedDtype
from modelhub.source import BytesSource
from modelhub.tensors import BlockTensor, StorageRef

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:gguf")


def decoded(kind: str, data: bytes, first: int, last: int) -> np.ndarray:
    tensor = BlockTensor(kind, (last,), StorageRef("w", 3, len(data)))
    return dequantised(tensor, BytesSource("file", b"abc" + data), first, last)


@pytest.mark.parametrize("kind", sorted(DEQUANTISED))
def test_any_blocks(kind):
    """Random bytes, every number and scale among them; from any element to any other."""
    block = BLOCK_BY_NAME[kind]
    random = np.random.default_rng(1)
    raw = random.integers(0, 256, (500, block.nbytes), np.uint8)
    expected = dequantize(raw, gguf.GGMLQuantizationType[kind]).reshape(-1)
    assert expected.size == 500 * block.elements
    for first, last in [(0, expected.size), *np.sort(random.integers(0, expected.size, (20, 2)))]:
        found = decoded(kind, raw.tobytes(), int(first), int(last))
        assert found.dtype == np.float32 and found.shape == (last - first,)
        assert np.array_equal(found, expected[first:last], equal_nan=True)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_was_quantised(kind):
    """Numbers that were quantised by the reference come back near what they were."""
    values = np.random.default_rng(2).standard_normal((8, 256), np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    assert np.abs(decoded(kind, packed.tobytes(), 0, values.size) - values.reshape(-1)).max() < 0.5


def test_types_and_sizes_are_those_of_ggml():
    """Every type that the gguf package knows has its name, and its blocks their sizes."""
    for kind, (elements, nbytes) in gguf.GGML_QUANT_SIZES.items():
        if kind.value in PLAIN:
            assert (PLAIN[kind.value].label, PLAIN[kind.value].itemsize) == (kind.name, nbytes)
        elif kind.name != "Q8_1":  # is never in files, and of 36 bytes in ggml itself
            assert BLOCKS[kind.value] == (kind.name, elements, nbytes)


def test_other_types_are_refused_by_name():
    """Types that are not known here are named."""
    tensor = BlockTensor("IQ1_S", (256,), StorageRef("blk.0.w", 0, 50))
    with pytest.raises(UnsupportedDtype, match=r"blk\.0\.w.*IQ1_S"):
        dequantised(tensor, BytesSource("file", bytes(50)), 0, 256)


def test_a_file_that_became_shorter_is_told():
    """Missing bytes are an error, not zeros."""
    with pytest.raises(ChangedDuringRead):
        dequantised(BlockTensor("Q8_0", (32,), StorageRef("w", 0, 34)), BytesSource("file", bytes(30)), 0, 32)
