"""Single elements by their definition, slowly: what the code that moves and casts whole blocks is checked against."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from modelhub.convert.gather import c_strides
from modelhub.tensors import DType, TensorInfo

_FORMATS = {DType.F16: "<e", DType.F32: "<f", DType.F64: "<d"}
_PRECISION = {DType.F16: (11, -24), DType.BF16: (8, -133), DType.F32: (24, -149), DType.F64: (53, -1074)}
"""Bits of the significand, exponent of the smallest number above zero (IEEE 754; bfloat16 is the upper half of F32)."""


def element_offsets(tensor: TensorInfo, limit: int) -> Iterator[tuple[int, int]]:
    """Up to *limit* elements of *tensor*, evenly spread, as (C-order index, absolute offset in the source).

    This is the definition of a strided tensor, one element at a time.
    """
    step = max(1, tensor.numel // limit)
    strides = tensor.strides if tensor.strides is not None else c_strides(tensor.shape)
    for index in range(0, tensor.numel, step):
        rest, position = index, 0
        for size, stride in zip(reversed(tensor.shape), reversed(strides), strict=True):
            rest, i = divmod(rest, size)
            position += i * stride
        yield index, tensor.start + position * tensor.dtype.itemsize


def is_element(written: bytes, stored: bytes, tensor: TensorInfo, target: DType) -> bool:
    """Whether *written*, an element of the output of type *target*, is the one whose bytes in the file are *stored*.

    Where the types differ, both are real floating point types, and it is the number rounded to nearest, ties to even.
    """
    dtype = tensor.dtype
    unit = len(stored) // 2 if dtype.is_complex else len(stored)
    parts = [stored[i : i + unit] for i in range(0, len(stored), unit)]
    if tensor.storage.byteorder == "big":
        parts = [part[::-1] for part in parts]
    if tensor.conj:
        parts[1] = _opposite(parts[1], dtype)
    if tensor.neg:
        parts = [_opposite(part, dtype) for part in parts]
    element = b"".join(parts)
    if dtype is target:
        return element == written
    number, found = _number(element, dtype), _number(written, target)
    if math.isnan(number):
        return math.isnan(found)
    return found == _rounded(number, target) and math.copysign(1, found) == math.copysign(1, number)


def _opposite(part: bytes, dtype: DType) -> bytes:
    if dtype.is_float or dtype.is_complex:
        return part[:-1] + bytes([part[-1] ^ 0x80])
    return (-int.from_bytes(part, "little") % (1 << dtype.bits)).to_bytes(len(part), "little")


def _number(element: bytes, dtype: DType) -> float:
    if dtype is DType.BF16:
        return float(struct.unpack("<f", b"\0\0" + element)[0])
    return float(struct.unpack(_FORMATS[dtype], element)[0])


def _rounded(number: float, dtype: DType) -> float:
    """The number of type *dtype* that is nearest to *number*."""
    if number == 0 or math.isinf(number):
        return number
    bits, lowest = _PRECISION[dtype]
    exponent = max(math.frexp(number)[1] - bits, lowest)
    return math.ldexp(round(math.ldexp(number, -exponent)), exponent)
