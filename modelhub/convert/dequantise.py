"""ggml's quantised blocks as float32.

Each decoder takes blocks as rows of bytes and gives their elements as rows, by the arithmetic of ggml's reference in
float32, so that the results are the same to the last bit. All blocks of a type are of one size, so any run of elements
can be had without the others. Source: ``ggml-common.h`` (what lies where in a block) and ``ggml-quants.c``
(``dequantize_row_*``). numpy is imported when the first block is taken up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modelhub.container.ggml import BLOCK_BY_NAME
from modelhub.errors import ChangedDuringRead, UnsupportedDtype
from modelhub.source import Source
from modelhub.tensors import BlockTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def dequantised(tensor: BlockTensor, source: Source, first: int, last: int) -> Array:
    """The elements of *tensor*, in C order, from the index *first* up to *last*, as float32.

    Its blocks lie in *source*. Raises :class:`UnsupportedDtype` for a type that is not one of :data:`DEQUANTISED`,
    :class:`ChangedDuringRead` where *source* has become shorter.
    """
    import numpy as np

    decode = _DECODERS.get(tensor.kind)
    if decode is None:
        which = f"{source.name}: tensor {tensor.storage.key!r:.100}"
        raise UnsupportedDtype(f"{which} is in blocks of ggml's type {tensor.kind}, which is not known here")
    block = BLOCK_BY_NAME[tensor.kind]
    begin, end = first // block.elements, -(-last // block.elements)
    data = source.read_at(tensor.storage.start + begin * block.nbytes, (end - begin) * block.nbytes)
    if len(data) != (end - begin) * block.nbytes:
        raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
    with np.errstate(over="ignore", invalid="ignore"):  # scales may be infinite, and then products are NaN
        values = decode(np.frombuffer(data, np.uint8).reshape(-1, block.nbytes), np)
    return values.reshape(-1)[first - begin * block.elements : last - begin * block.elements]


def _half(blocks: Array, at: int, np: Any) -> Array:
    """The float16 at byte *at* of each block, as a column of float32."""
    column: Array = np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype("f4")
    return column


def _nibbles(data: Array, np: Any) -> Array:
    """The low halves of each row's bytes, and after them the high halves."""
    joined: Array = np.concatenate([data & 15, data >> 4], axis=1)
    return joined


def _fifth_bits(blocks: Array, at: int, np: Any) -> Array:
    """The 32 bits at byte *at* of each block, as 0 or 16."""
    bits: Array = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4
    return bits


def _q4_0(blocks: Array, np: Any) -> Array:
    values: Array = _half(blocks, 0, np) * (_nibbles(blocks[:, 2:], np).astype("i1") - 8).astype("f4")
    return values


def _q4_1(blocks: Array, np: Any) -> Array:
    values: Array = _half(blocks, 0, np) * _nibbles(blocks[:, 4:], np).astype("f4") + _half(blocks, 2, np)
    return values


def _q5_0(blocks: Array, np: Any) -> Array:
    numbers = _nibbles(blocks[:, 6:], np) | _fifth_bits(blocks, 2, np)
    values: Array = _half(blocks, 0, np) * (numbers.astype("i1") - 16).astype("f4")
    return values


def _q5_1(blocks: Array, np: Any) -> Array:
    numbers = _nibbles(blocks[:, 8:], np) | _fifth_bits(blocks, 4, np)
    values: Array = _half(blocks, 0, np) * numbers.astype("f4") + _half(blocks, 2, np)
    return values


def _q8_0(blocks: Array, np: Any) -> Array:
    values: Array = _half(blocks, 0, np) * blocks[:, 2:].view("i1").astype("f4")
    return values


def _pairs(data: Array, np: Any) -> Array:
    """2-bit numbers of bytes in halves of 32: each half's lowest bits, the next ones, and so on.

    Shape (blocks, 64) becomes (blocks, 2, 4, 32).
    """
    shifts = np.arange(0, 8, 2, dtype="u1").reshape(1, 1, 4, 1)
    pairs: Array = (data.reshape(-1, 2, 1, 32) >> shifts) & 3
    return pairs


def _q2_k(blocks: Array, np: Any) -> Array:
    scales = blocks[:, :16]
    scale = _half(blocks, 80, np) * (scales & 15).astype("f4")
    least = _half(blocks, 82, np) * (scales >> 4).astype("f4")
    numbers = _pairs(blocks[:, 16:80], np).reshape(-1, 16, 16).astype("f4")
    values: Array = scale[:, :, None] * numbers - least[:, :, None]
    return values.reshape(len(blocks), 256)


def _q3_k(blocks: Array, np: Any) -> Array:
    packed = blocks[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    shifts = np.repeat(np.arange(0, 8, 2, dtype="u1"), 4)
    high = (np.tile(packed[:, 8:12], (1, 4)) >> shifts) & 3
    scale = _half(blocks, 108, np) * ((low | (high << 4)).astype("i1") - 32).astype("f4")
    bits = (blocks[:, :32].reshape(-1, 1, 32) >> np.arange(8, dtype="u1").reshape(1, 8, 1)) & 1
    below = ((bits ^ 1) << 2).reshape(-1, 16, 16)
    numbers = _pairs(blocks[:, 32:96], np).reshape(-1, 16, 16).astype("i1") - below.astype("i1")
    values: Array = scale[:, :, None] * numbers.astype("f4")
    return values.reshape(len(blocks), 256)


def _scales_and_minima(packed: Array, np: Any) -> tuple[Array, Array]:
    """The eight 6-bit scales and the eight 6-bit minima in each row of 12 bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales.astype("f4"), minima.astype("f4")


def _in_eighths(blocks: Array, numbers: Array, np: Any) -> Array:
    """Blocks of eight parts of 32 *numbers*, each with a scale and a minimum."""
    scales, minima = _scales_and_minima(blocks[:, 4:16], np)
    scale, least = _half(blocks, 0, np) * scales, _half(blocks, 2, np) * minima
    values: Array = scale[:, :, None] * numbers.reshape(-1, 8, 32).astype("f4") - least[:, :, None]
    return values.reshape(len(blocks), 256)


def _q4_k(blocks: Array, np: Any) -> Array:
    return _in_eighths(blocks, _nibbles(blocks[:, 16:].reshape(-1, 32), np), np)


def _q5_k(blocks: Array, np: Any) -> Array:
    bits = (blocks[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype="u1").reshape(1, 8, 1)) & 1
    low = _nibbles(blocks[:, 48:].reshape(-1, 32), np).reshape(-1, 8, 32)
    return _in_eighths(blocks, low | (bits << 4), np)


def _q6_k(blocks: Array, np: Any) -> Array:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    numbers = (low | (_pairs(blocks[:, 128:192], np) << 4)).reshape(-1, 16, 16).astype("i1") - 32
    scale = _half(blocks, 208, np) * blocks[:, 192:208].view("i1").astype("f4")
    values: Array = scale[:, :, None] * numbers.astype("f4")
    return values.reshape(len(blocks), 256)


_DECODERS: Mapping[str, Callable[[Array, Any], Array]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
DEQUANTISED = frozenset(_DECODERS)
"""Names of the types that :func:`dequantised` knows."""
