"""The few bytes of tensor data that identification reads: single numbers, and one bias of SD 2."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping

from modelhub.errors import SourceError
from modelhub.tensors import DType, TensorInfo

Read = Callable[[int, int], bytes]
"""``read(offset, length)``: bytes of the file at an absolute offset, fewer where it ends."""

LARGEST_READ = 1 << 15
"""Bytes: more than any probe needs (320 numbers), whatever a file claims of its tensors."""

_FORMATS = {
    "F16": "e",
    "F32": "f",
    "F64": "d",
    "U8": "B",
    "I8": "b",
    "I16": "h",
    "U16": "H",
    "I32": "i",
    "U32": "I",
    "I64": "q",
    "U64": "Q",
}


class Probe:
    """One number a tensor: the value of a single element, or how far many spread.

    ``numbers`` holds by tensor name what was read, so that a later question can be answered without the file. *read*
    gives its bytes (without it only what *numbers* has is known).
    """

    __slots__ = ("_read", "numbers")

    def __init__(self, read: Read | None = None, numbers: Mapping[str, float] | None = None) -> None:
        self._read = read
        self.numbers: dict[str, float] = dict(numbers or {})

    def number(self, tensor: TensorInfo) -> float | None:
        """The value of a tensor of one element, when that is a finite number."""
        return self._asked(tensor, _single) if tensor.numel == 1 else None

    def deviation(self, tensor: TensorInfo) -> float | None:
        """The standard deviation of a small tensor's values, when that is a finite number."""
        return self._asked(tensor, deviation)

    def _asked(self, tensor: TensorInfo, of: Callable[[tuple[float, ...]], float]) -> float | None:
        known = self.numbers.get(tensor.name)
        if known is not None:
            return known
        values = numbers(tensor, self._read)
        if not values or not math.isfinite(value := of(values)):
            return None
        self.numbers[tensor.name] = value
        return value


def numbers(tensor: TensorInfo, read: Read | None) -> tuple[float, ...] | None:
    """The values of a small tensor; ``None`` where they cannot be read as they lie."""
    storage = tensor.storage
    if storage.packing is not None or tensor.conj or tensor.neg or not tensor.contiguous:
        return None
    if not 0 < tensor.nbytes <= LARGEST_READ or min(tensor.start, tensor.offset, *tensor.shape, 0) < 0:
        return None
    if storage.data is not None:
        return _decoded(storage.data[tensor.offset : tensor.offset + tensor.nbytes], tensor)
    if read is None:
        return None
    try:
        data = read(tensor.start, tensor.nbytes)
    except (SourceError, OSError):
        return None
    return _decoded(data, tensor)


def deviation(values: tuple[float, ...]) -> float:
    """Standard deviation of the population; not finite when a value is not, or when they are too large."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / len(values))


def _single(values: tuple[float, ...]) -> float:
    return values[0]


def _decoded(data: bytes, tensor: TensorInfo) -> tuple[float, ...] | None:
    if len(data) != tensor.nbytes:
        return None
    order = "<" if tensor.storage.byteorder == "little" else ">"
    if tensor.dtype is DType.BF16:  # the upper half of a float32
        halves = struct.unpack(f"{order}{tensor.numel}H", data)
        return struct.unpack(f"<{len(halves)}f", b"".join(struct.pack("<I", half << 16) for half in halves))
    code = _FORMATS.get(tensor.dtype.label)
    return struct.unpack(f"{order}{tensor.numel}{code}", data) if code else None
