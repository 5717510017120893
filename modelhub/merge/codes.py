"""The numbers of eight bits, E4M3 and E5M2.

E4M3 has a bias of 7, no infinities and two NaNs; E5M2 a bias of 15, infinities and NaNs as IEEE 754 has them
(Micikevicius et al. 2022, "FP8 formats for deep learning", arXiv 2209.05433).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from modelhub.tensors import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

EIGHT_BITS = frozenset({DType.F8_E4M3, DType.F8_E5M2})


def number_of(dtype: DType, code: int) -> float:
    """The number that *code* stands for, of E4M3 or E5M2; perhaps not finite."""
    return float(_table(dtype)[code])


def numbers_of_codes(codes: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """The F32 numbers that *codes*, bytes in one dimension, stand for; perhaps not finite."""
    import numpy as np

    even = len(codes) // 2 * 2
    numbers = np.empty(len(codes), "<f4")
    _pairs(dtype).take(codes[:even].view("<u2"), out=numbers[:even].view("<u8"), mode="wrap")
    numbers[even:] = _table(dtype)[codes[even:]]
    return numbers


@cache
def _pairs(dtype: DType) -> NDArray[Any]:
    """The two F32 numbers of each two codes, as one element: half as many are looked up."""
    import numpy as np

    table, both = _table(dtype), np.arange(1 << 16)
    return np.stack((table[both & 0xFF], table[both >> 8]), axis=1).view("<u8").reshape(-1)


@cache
def _table(dtype: DType) -> NDArray[Any]:
    """The F32 number of each code."""
    import numpy as np

    bits, bias = (3, 7) if dtype is DType.F8_E4M3 else (2, 15)
    codes = np.arange(256)
    exponent, fraction = (codes & 0x7F) >> bits, codes & ((1 << bits) - 1)
    normal = np.ldexp(1 + fraction / (1 << bits), exponent - bias)
    size = np.where(exponent == 0, np.ldexp(fraction / (1 << bits), 1 - bias), normal)
    if dtype is DType.F8_E4M3:
        size[(codes & 0x7F) == 0x7F] = np.nan
    else:
        size[exponent == 0x1F] = np.where(fraction[exponent == 0x1F] == 0, np.inf, np.nan)
    return np.where(codes & 0x80, -size, size).astype("<f4")
