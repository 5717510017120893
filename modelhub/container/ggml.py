"""ggml's element types: their names, and the blocks in which quantised ones lie.

Source: ``ggml.h`` (``enum ggml_type``) and ``ggml-common.h`` (the sizes of its blocks). A type that was taken out again
has no entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelhub.tensors import DType


class BlockType(NamedTuple):
    """A quantised type: *nbytes* bytes stand for *elements* elements that follow each other in a row."""

    name: str
    elements: int
    nbytes: int


PLAIN: Mapping[int, DType] = {
    0: DType.F32,
    1: DType.F16,
    24: DType.I8,
    25: DType.I16,
    26: DType.I32,
    27: DType.I64,
    28: DType.F64,
    30: DType.BF16,
}
"""Types whose elements are tensors' own, by number."""

BLOCKS: Mapping[int, BlockType] = {
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    9: BlockType("Q8_1", 32, 36),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: BlockType("Q8_K", 256, 292),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    29: BlockType("IQ1_M", 256, 56),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: BlockType("NVFP4", 64, 36),
    41: BlockType("Q1_0", 128, 18),
}
"""Quantised types, by number."""

BLOCK_BY_NAME: Mapping[str, BlockType] = {block.name: block for block in BLOCKS.values()}
