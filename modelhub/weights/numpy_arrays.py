"""NumPy arrays over memory that was filled from a file.

NumPy has no bfloat16, no floats of 8 or 4 bits and no complex of 32 bits. Their values all are float32 values, so they
become float32 (complex64), whatever is or is not installed beside: no other package's element types are used.

The bytes of such elements are read into the end of the memory and widened from its beginning on. That never overtakes
itself: the results of the first j of n bytes end at gj, where g is the growth, and the bytes still to be widened begin
at (g - 1)n + j, which is never less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelhub.tensors import DType, TensorInfo

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 64 << 10  # bytes widened at a time: they and their results stay in a core's own cache
_NAMES: Mapping[DType, str] = {
    DType.BOOL: "?",
    DType.U8: "u1",
    DType.I8: "i1",
    DType.I16: "i2",
    DType.U16: "u2",
    DType.F16: "f2",
    DType.I32: "i4",
    DType.U32: "u4",
    DType.F32: "f4",
    DType.C64: "c8",
    DType.F64: "f8",
    DType.I64: "i8",
    DType.U64: "u8",
    DType.C128: "c16",
}
_WIDENED: Mapping[DType, str] = {
    DType.BF16: "f4",
    DType.C32: "c8",
    DType.F8_E5M2: "f4",
    DType.F8_E4M3: "f4",
    DType.F8_E8M0: "f4",
    DType.F8_E4M3FNUZ: "f4",
    DType.F8_E5M2FNUZ: "f4",
    DType.F4: "f4",
}


class NumPyMaker:
    """Makes ``numpy.ndarray`` objects. Raises :class:`ImportError` without numpy."""

    framework = "numpy"

    def __init__(self) -> None:
        import numpy

        self._np = numpy
        self._tables: dict[DType, np.ndarray[Any, Any]] = {}

    def holds(self, tensor: TensorInfo) -> bool:
        return tensor.dtype in _NAMES or tensor.dtype in _WIDENED

    def growth(self, dtype: DType) -> int:
        if dtype not in _WIDENED:
            return 1
        return (64 if dtype.is_complex else 32) // dtype.bits

    def memory(self, nbytes: int, widened: DType | None) -> tuple[np.ndarray[Any, Any], memoryview]:
        whole = self._np.empty(nbytes * (self.growth(widened) if widened else 1), self._np.uint8)
        return whole, whole.data[whole.nbytes - nbytes :]

    def settle(self, memory: np.ndarray[Any, Any], widened: DType | None) -> None:
        if widened is None:
            return
        growth = self.growth(widened)
        raw = memory[memory.nbytes - memory.nbytes // growth :]
        into = memory.view("f4")
        for begin in range(0, raw.nbytes, _BLOCK):
            values = self._widen(raw[begin : begin + _BLOCK], widened)
            first = begin * growth // 4
            into[first : first + values.size] = values

    def _widen(self, raw: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
        if dtype is DType.BF16:
            widened: np.ndarray[Any, Any] = (raw.view("u2").astype("u4") << 16).view("f4")
        elif dtype is DType.C32:
            widened = raw.view("f2").astype("f4")
        else:
            widened = self._table(dtype)[raw].reshape(-1)
        return widened

    def _table(self, dtype: DType) -> np.ndarray[Any, Any]:
        """float32 values by byte, shape (256, values of a byte)."""
        if dtype not in self._tables:
            self._tables[dtype] = self._np.array(_values_of_byte(dtype), "f4")
        return self._tables[dtype]

    def array(self, memory: Any, tensor: TensorInfo, offset: int) -> np.ndarray[Any, Any]:
        dtype = self._dtype(tensor)
        strides = None if tensor.strides is None else tuple(stride * dtype.itemsize for stride in tensor.strides)
        begin = offset * self.growth(tensor.dtype)
        made: np.ndarray[Any, Any] = self._np.ndarray(tensor.shape, dtype, memory, begin, strides)
        if tensor.conj:
            made = made.conj()
        return -made if tensor.neg else made

    def empty(self, tensor: TensorInfo) -> np.ndarray[Any, Any]:
        return self._np.empty(tensor.shape, self._dtype(tensor))

    def _dtype(self, tensor: TensorInfo) -> np.dtype[Any]:
        return self._np.dtype(_NAMES.get(tensor.dtype) or _WIDENED[tensor.dtype])


def _values_of_byte(dtype: DType) -> list[list[float]]:
    """The values that each byte stands for: one of 8 bits, or two of 4 (the low half first, as torch packs them)."""
    if dtype is DType.F4:
        return [[_value(byte & 15, dtype), _value(byte >> 4, dtype)] for byte in range(256)]
    return [[_value(byte, dtype)] for byte in range(256)]


_FIELDS: Mapping[DType, tuple[int, int, int]] = {
    DType.F8_E5M2: (5, 2, 15),
    DType.F8_E4M3: (4, 3, 7),
    DType.F8_E5M2FNUZ: (5, 2, 16),
    DType.F8_E4M3FNUZ: (4, 3, 8),
    DType.F4: (2, 1, 1),
}
"""Bits of exponent and fraction, and bias. OCP 8-bit Floating Point and Microscaling Formats specifications 1.0; the
"FNUZ" ones (finite, no negative zero, which is NaN) as in the ONNX specification."""


def _value(code: int, dtype: DType) -> float:
    """The number that the bits *code* stand for."""
    if dtype is DType.F8_E8M0:
        return math.nan if code == 255 else 2.0 ** (code - 127)
    exponent_bits, fraction_bits, bias = _FIELDS[dtype]
    sign = -1.0 if code >> (exponent_bits + fraction_bits) else 1.0
    exponent = code >> fraction_bits & (1 << exponent_bits) - 1
    fraction = code & (1 << fraction_bits) - 1
    full = exponent == (1 << exponent_bits) - 1
    if dtype in (DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ):
        if code == 0x80:
            return math.nan
    elif dtype is DType.F8_E5M2 and full:
        return math.nan if fraction else sign * math.inf
    elif dtype is DType.F8_E4M3 and full and fraction == 7:
        return math.nan
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias - fraction_bits)
    return sign * ((1 << fraction_bits) + fraction) * 2.0 ** (exponent - bias - fraction_bits)
