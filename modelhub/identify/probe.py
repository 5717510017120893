"""The few bytes of tensor data that identification reads: single numbers, and one bias of SD 2."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence

from modelhub.errors import SourceError
from modelhub.tensor_table import TensorTable
from modelhub.tensors import DType, TensorInfo

Read = Callable[[int, int], bytes]
"""``read(offset, length)``: bytes of the file at an absolute offset, fewer where it ends."""

LARGEST_READ = 1 << 15
"""Bytes: more than any probe needs (320 numbers), whatever a file claims of its tensors."""

_FEW = 8
"""Numbers that a sparing probe reads of a group before it takes the rest to be the same. They lie megabytes apart, so
that each costs a disk a seek: all 264 of a LoRA take a spinning disk a second, the whole rest of the file 0.05."""

_LONE = frozenset({(), (1,)})
"""Shapes of tensors of one element."""

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
    gives its bytes (without it only what *numbers* has is known). A *sparing* one reads few of the numbers that are
    likely to be the same: it is for whoever looks at thousands of files.
    """

    __slots__ = ("_read", "_sparing", "numbers")

    def __init__(
        self, read: Read | None = None, numbers: Mapping[str, float] | None = None, *, sparing: bool = False
    ) -> None:
        self._read = read
        self._sparing = sparing
        self.numbers: dict[str, float] = dict(numbers or {})

    def number(self, tensor: TensorInfo) -> float | None:
        """The value of a tensor of one element, when that is a finite number."""
        return self._asked(tensor, _single) if tensor.numel == 1 else None

    def each(self, tensors: Mapping[str, TensorInfo], names: Sequence[str]) -> list[float | None]:
        """The :meth:`number` of each of *tensors* that *names* names, which are likely to be the same.

        A sparing probe reads some, evenly spread, and takes the others to be like them where these are all alike.
        """
        if self._sparing and len(names) > _FEW:
            last = len(names) - 1
            some = {self._named(tensors, names[last * index // (_FEW - 1)]) for index in range(_FEW)}
            if len(some) == 1 and (value := some.pop()) is not None:
                known = self.numbers
                if isinstance(tensors, TensorTable) and tensors.shapes(names) <= _LONE:
                    return [known.setdefault(name, value) for name in names]
                alike = [tensors[name] for name in names]
                for tensor in alike:
                    known.setdefault(tensor.name, value)
                return [known[tensor.name] if not tensor.shape or tensor.numel == 1 else None for tensor in alike]
        return [self._named(tensors, name) for name in names]

    def deviation(self, tensor: TensorInfo) -> float | None:
        """The standard deviation of a small tensor's values, when that is a finite number."""
        return self._asked(tensor, deviation)

    def _asked(self, tensor: TensorInfo, of: Callable[[tuple[float, ...]], float]) -> float | None:
        known = self.numbers.get(tensor.name)
        return known if known is not None else self._kept(tensor.name, numbers(tensor, self._read), of)

    def _named(self, tensors: Mapping[str, TensorInfo], name: str) -> float | None:
        """The :meth:`number` of the tensor called *name*, of which a table tells all that is needed."""
        if name in self.numbers or not isinstance(tensors, TensorTable):
            return self.number(tensors[name])
        (dtype, shape, _), start = tensors.row(name)
        if shape not in _LONE:
            return self.number(tensors[name])
        return self._kept(name, _read_numbers(self._read, start, dtype, 1), _single)

    def _kept(
        self, name: str, values: tuple[float, ...] | None, of: Callable[[tuple[float, ...]], float]
    ) -> float | None:
        if not values or not math.isfinite(value := of(values)):
            return None
        self.numbers[name] = value
        return value


def numbers(tensor: TensorInfo, read: Read | None) -> tuple[float, ...] | None:
    """The values of a small tensor; ``None`` where they cannot be read as they lie."""
    storage, shape, count = tensor.storage, tensor.shape, tensor.numel
    nbytes = (count * tensor.dtype.bits + 7) // 8
    if storage.packing is not None or tensor.conj or tensor.neg or not tensor.contiguous:
        return None
    if not 0 < nbytes <= LARGEST_READ or tensor.start < 0 or tensor.offset < 0 or (shape and min(shape) < 0):
        return None
    if storage.data is not None:
        data = storage.data[tensor.offset : tensor.offset + nbytes]
        return _decoded(data, tensor.dtype, count, storage.byteorder)
    return _read_numbers(read, tensor.start, tensor.dtype, count, storage.byteorder)


def _read_numbers(
    read: Read | None, start: int, dtype: DType, count: int, byteorder: str = "little"
) -> tuple[float, ...] | None:
    if read is None:
        return None
    try:
        data = read(start, (count * dtype.bits + 7) // 8)
    except (SourceError, OSError):
        return None
    return _decoded(data, dtype, count, byteorder)


def deviation(values: tuple[float, ...]) -> float:
    """Standard deviation of the population; not finite when a value is not, or when they are too large."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / len(values))


def _single(values: tuple[float, ...]) -> float:
    return values[0]


def _decoded(data: bytes, dtype: DType, count: int, byteorder: str) -> tuple[float, ...] | None:
    if len(data) != (count * dtype.bits + 7) // 8:
        return None
    order = "<" if byteorder == "little" else ">"
    if dtype is DType.BF16:  # the upper half of a float32
        halves = struct.unpack(f"{order}{count}H", data)
        return struct.unpack(f"<{len(halves)}f", b"".join(struct.pack("<I", half << 16) for half in halves))
    code = _FORMATS.get(dtype.label)
    return struct.unpack(f"{order}{count}{code}", data) if code else None
