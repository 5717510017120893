"""From tensors to arrays: which memory there is, which bytes of the file go into it, which arrays look at it.

The bytes are read and not mapped: a mapped file that somebody cuts short kills the process that looks at it, and one
that is rewritten changes weights that were judged already. Reading needs the memory of the weights and one block; the
file may be replaced or deleted as soon as it is done.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from modelhub.container.storages import Storages
from modelhub.convert.convertible import MAX_GROWTH
from modelhub.convert.gather import extent
from modelhub.errors import ChangedDuringRead, LimitExceeded, Malformed
from modelhub.source import Source
from modelhub.tensors import DType, StorageRef, TensorInfo

_BLOCK = 4 << 20  # bytes read at a time, and whose order is reversed at a time

_ALIGNMENT = 16  # bytes of the widest element, so that a run's offset is a whole number of elements of every type
_TYPECODES: Final[Mapping[int, Literal["H", "I", "Q"]]] = {2: "H", 4: "I", 8: "Q"}


class Maker(Protocol):
    """What makes the arrays of one framework, over memory that it gives."""

    framework: str

    def holds(self, tensor: TensorInfo) -> bool:
        """Whether there are arrays of its element type."""

    def growth(self, dtype: DType) -> int:
        """Bytes of memory for each byte of *dtype* elements in the file: more than 1 where they are widened."""

    def memory(self, nbytes: int, widened: DType | None) -> tuple[Any, memoryview]:
        """New memory for the arrays of *nbytes* bytes of a file, and the part of it that these are to be read into."""

    def settle(self, memory: Any, widened: DType | None) -> None:
        """Make elements of *memory* of the bytes that were read into it, where they are *widened*."""

    def array(self, memory: Any, tensor: TensorInfo, offset: int) -> Any:
        """The array that *tensor* describes; its first element was read *offset* bytes from the beginning."""

    def empty(self, tensor: TensorInfo) -> Any:
        """The array of a tensor without elements."""


@dataclass(frozen=True, slots=True)
class _Sharing:
    """What tensors must agree in to share memory.

    ``unit`` is the number of bytes that are reversed together (1: none are), ``widened`` the element type if it is;
    ``phase`` is how many bytes after a whole number of elements they begin, which is 0 but where a header is before.
    """

    storage: StorageRef
    unit: int
    widened: DType | None
    phase: int


def read_arrays(tensors: Iterable[TensorInfo], source: Source, maker: Maker) -> dict[str, Any]:
    """The arrays of *tensors*, whose bytes lie in *source*, by name and in their order.

    Raises :class:`LimitExceeded` when they take many times the bytes of *source*, :class:`ChangedDuringRead` when it
    became shorter, :class:`Malformed` for a shape that the framework cannot have.
    """
    arrays: dict[str, Any] = {}
    groups: dict[_Sharing, list[TensorInfo]] = {}
    for tensor in tensors:
        arrays[tensor.name] = None  # keeps its place
        if tensor.numel == 0:
            arrays[tensor.name] = _make(maker.empty, tensor, source=source)
        else:
            widened = tensor.dtype if maker.growth(tensor.dtype) > 1 else None
            phase = tensor.offset % max(1, tensor.dtype.bits // 8)
            groups.setdefault(_Sharing(tensor.storage, _swapped_unit(tensor), widened, phase), []).append(tensor)
    runs = {sharing: _hull(group, sharing.phase) for sharing, group in groups.items()}
    _check_size(groups, runs, source, maker)
    storages = Storages(source)
    for sharing in sorted(groups, key=lambda s: s.storage.start):
        first, last = runs[sharing]
        memory, place = maker.memory(last - first, sharing.widened)
        held, located = storages.locate(groups[sharing][0])
        _fill(place, held, located.storage.start + first, sharing.unit)
        maker.settle(memory, sharing.widened)
        for tensor in groups[sharing]:
            arrays[tensor.name] = _make(maker.array, memory, tensor, tensor.offset - first, source=source)
    return arrays


def _check_size(
    groups: Mapping[_Sharing, Iterable[TensorInfo]],
    runs: Mapping[_Sharing, tuple[int, int]],
    source: Source,
    maker: Maker,
) -> None:
    """Refuse what would need many times the memory that the file's bytes take; views cost nothing."""
    needed = 0
    for sharing, (first, last) in runs.items():
        needed += (last - first) * (maker.growth(sharing.widened) if sharing.widened else 1)
        # lazy in torch, but whoever looks at their values pays for them
        needed += sum(tensor.nbytes for tensor in groups[sharing] if tensor.conj or tensor.neg)
    constant, factor = MAX_GROWTH
    if needed > constant + factor * source.size:
        raise LimitExceeded(f"{source.name}: its {source.size:,} bytes would become {needed:,} of tensors")


def _make(make: Any, *args: Any, source: Source) -> Any:
    try:
        return make(*args)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        tensor = next(arg for arg in args if isinstance(arg, TensorInfo))
        raise Malformed(f"{source.name}: there can be no tensor {tensor.name!r:.100}: {error}"[:400]) from error


def _swapped_unit(tensor: TensorInfo) -> int:
    """Bytes that must change their order together for this machine to read *tensor*; 1: none."""
    if tensor.dtype.bits <= 8 or tensor.storage.byteorder == sys.byteorder:
        return 1
    return tensor.dtype.itemsize // (2 if tensor.dtype.is_complex else 1)


def _hull(tensors: Iterable[TensorInfo], phase: int) -> tuple[int, int]:
    """First byte of their storage, aligned after *phase*, and one past the last one that *tensors* look at."""
    first = min(tensor.offset for tensor in tensors)
    return first - (first - phase) % _ALIGNMENT, max(tensor.offset + extent(tensor) for tensor in tensors)


def _fill(place: memoryview, source: Source, start: int, unit: int) -> None:
    """Read ``len(place)`` bytes of *source* from *start* on, and reverse the bytes of every *unit*."""
    for begin in range(0, len(place), _BLOCK):
        block = place[begin : begin + _BLOCK]
        if source.readinto_at(start + begin, block) != len(block):
            raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
        if unit > 1:
            values = array(_TYPECODES[unit], bytes(block))
            values.byteswap()
            block[:] = memoryview(values).cast("B")
