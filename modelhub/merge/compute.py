"""The new numbers of one tensor, in blocks of rows through buffers that are used again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modelhub.convert import PlannedTensor
from modelhub.errors import MergeError
from modelhub.merge.base import Precision, Told
from modelhub.merge.codes import numbers_of_codes
from modelhub.merge.quantising import Largest, Quantiser
from modelhub.merge.reading import Rows, torch_type
from modelhub.merge.rounding import rounded, rounded_stochastically

BLOCK = 1 << 19
"""Elements of a block: so many in F32 stay in the processor's caches, and a block's temporaries with them."""

CPU = torch.device("cpu")


class Maker(Protocol):
    """Makes the new numbers of a tensor of the old ones."""

    @property
    def whole(self) -> bool:
        """Whether it needs all rows at a time."""

    @property
    def runs(self) -> Sequence[tuple[int, int]] | None:
        """The runs of rows that it changes, in their order; ``None``: all rows."""

    def make(self, weight: Tensor, first: int) -> None:
        """Change *weight*, the tensor's rows from *first* on, in place."""


Room = Callable[[int, int], memoryview | None]
"""Gives memory for the bytes of an output's tensor from one on, by its number and how many they are; if it has any."""


class Buffers:
    """Memory for a block, kept from one to the next; one for each thread."""

    def __init__(self, room: Room | None = None) -> None:
        """*room* gives the memory for blocks of the output."""
        self._room = room
        self._kept: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def get(self, use: str, dtype: torch.dtype, shape: Sequence[int], device: torch.device = CPU) -> Tensor:
        """A tensor of *shape* whose elements are whatever they were."""
        count = math.prod(shape)
        kept = self._kept.get((use, dtype, device))
        if kept is None or kept.numel() < count:
            kept = self._kept[use, dtype, device] = torch.empty(max(count, BLOCK), dtype=dtype, device=device)
        return kept[:count].reshape(tuple(shape))

    def output(self, offset: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """A tensor of *shape* on the CPU for the output's block that begins at byte *offset* of its tensor."""
        room = self._room(offset, math.prod(shape) * dtype.itemsize) if self._room is not None else None
        if room is None:
            return self.get("output", dtype, shape)
        return torch.frombuffer(room, dtype=dtype).reshape(tuple(shape))


def type_to_compute_in(planned: PlannedTensor, precision: Precision) -> torch.dtype:
    """F32, or F64 where that is asked for or the tensor or its source is of it."""
    wide = torch.float64 in (torch_type(planned.pieces[0].tensor.dtype), torch_type(planned.dtype))
    return torch.float64 if precision.exact or wide else torch.float32


class Computed(Protocol):
    """The bytes of a tensor that is computed."""

    @property
    def told(self) -> Told | None:
        """What that did to its weights, after the last block; ``None`` where it is no weight."""

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """``(offset in bytes, elements in the output's type)``; a block is valid until the next is asked for.

        They come once more, from the first on, where it turns out that they were not the right ones.
        """


class Computation:
    """The new *planned* that *maker* makes, block after block; what it did is in ``told`` after the last of them."""

    def __init__(
        self,
        planned: PlannedTensor,
        maker: Maker,
        precision: Precision,
        buffers: Buffers,
        device: torch.device = CPU,
        *,
        quantiser: Quantiser | None = None,
        largest: Largest | None = None,
    ) -> None:
        """*quantiser*: the output has codes and scales; *largest* sees all new numbers."""
        (piece,) = planned.pieces
        self._planned = planned
        self._maker = maker
        self._buffers = buffers
        self._device = device
        self._rows = Rows(piece)
        self._source = torch_type(piece.tensor.dtype)
        self._target = torch_type(planned.dtype)
        self._dtype = type_to_compute_in(planned, precision)
        self._seed = precision.seed
        self._quantiser = quantiser
        self._largest = largest
        self._where = f"{piece.source.name}: tensor {planned.name!r:.100}"
        self.told = Told(0.0, 0.0, 0, 0)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """See :class:`Computed`."""
        columns = math.prod(self._planned.shape[1:])
        weight = change = 0.0
        unchanged = numel = 0
        get, device = self._buffers.get, self._device
        for first, stored, before, merged in self._merged():
            if self._largest is not None:
                self._largest.see(merged, first)
            offset = first * columns * self._target.itemsize
            written = self._buffers.output(offset, self._target, stored.shape)
            made = written if device == CPU else get("made", self._target, stored.shape, device)
            self._round(merged, made, first)
            if device != CPU:
                written.copy_(made)
            self._check(written, merged)
            for run in self._changed(first, stored.shape[0]):
                unchanged += self._unchanged(stored[run], before[run], written[run], first + run.start)
                weight += _square(before[run])
                change += _square(before[run].sub_(merged[run]))
                numel += stored[run].numel()
            yield offset, written
        self.told = Told(math.sqrt(weight), math.sqrt(change), numel, unchanged)

    def _changed(self, first: int, count: int) -> Iterator[slice]:
        """What the maker changes of the block of *count* rows from *first* on."""
        for begin, end in self._maker.runs or ((first, first + count),):
            low, high = max(begin - first, 0), min(end - first, count)
            if low < high:
                yield slice(low, high)

    def _merged(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """The first row of each block, and the block as it is stored, to compute with, and merged."""
        shape = self._planned.shape or (1,)
        columns = math.prod(shape[1:])
        if not shape[0] * columns:
            return
        step = shape[0] if self._maker.whole else max(1, BLOCK // columns)
        get, device = self._buffers.get, self._device
        for first in range(0, shape[0], step):
            count = min(step, shape[0] - first)
            stored = get("stored", self._source, (count, *shape[1:]))
            self._rows.read(first * columns, stored)
            before = get("before", self._dtype, stored.shape, device).copy_(stored)
            merged = get("merged", self._dtype, stored.shape, device).copy_(stored)
            self._maker.make(merged, first)
            yield first, stored, before, merged

    def _round(self, merged: Tensor, made: Tensor, first: int) -> None:
        if self._quantiser is not None:
            numbers = self._buffers.get("quantised", self._dtype, merged.shape, self._device).copy_(merged)
            merged = self._quantiser.divided(numbers, first)
        if self._seed is None:
            rounded(merged, made)
        else:
            seed = zlib.crc32(f"{self._seed}/{first}/{self._planned.name}".encode())
            rounded_stochastically(merged, made, torch.Generator().manual_seed(seed))

    def _check(self, written: Tensor, merged: Tensor) -> None:
        """Refuse *merged* where it has values that are not finite, or that are none of the output's type."""
        if self._quantiser is None and self._target in _INFINITY and all_finite(written):
            return
        lowest, highest = torch.aminmax(merged)
        self._check_finite(lowest, highest)
        if self._quantiser is None:
            self._check_range(float(lowest), float(highest))

    def _check_finite(self, lowest: Tensor, highest: Tensor) -> None:
        if not -math.inf < float(lowest) <= float(highest) < math.inf:
            raise MergeError(f"{self._where}: merged, it has values that are not finite")

    def _check_range(self, lowest: float, highest: float) -> None:
        if max(-lowest, highest) > torch.finfo(self._target).max:
            value = lowest if -lowest > highest else highest
            hint = "--dtype bf16 or fp32 keeps it in range"
            raise MergeError(f"{self._where}: merged, it has the value {value:.6g}, out of range", hint=hint)

    def _unchanged(self, stored: Tensor, before: Tensor, written: Tensor, first: int) -> int:
        """How many numbers are, written, what they were."""
        if self._quantiser is not None:
            codes = written.view(torch.uint8).numpy().reshape(-1)
            decoded = torch.from_numpy(numbers_of_codes(codes, self._planned.dtype)).reshape(written.shape)
            numbers = self._buffers.get("quantised", self._dtype, written.shape, self._device).copy_(decoded)
            self._quantiser.multiplied(numbers, first)
            return int(np.count_nonzero(numbers.cpu().numpy() == before.cpu().numpy()))
        return _equal(written, stored if self._source is self._target else before.to(self._target).cpu())


def _square(values: Tensor) -> float:
    """The sum of the squares of *values*."""
    if values.device != CPU:
        return float(torch.linalg.vector_norm(values)) ** 2
    flat = values.numpy().reshape(-1)
    return float(np.dot(flat, flat))  # twice as fast as torch's norm


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_INFINITY = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F80_0000, torch.float64: 0x7FF0 << 48}
"""The bits of infinity, of the types whose numbers become it when they are rounded beyond the largest (IEEE 754)."""


def all_finite(values: Tensor) -> bool:
    """Whether none of *values*, contiguous on the CPU, is infinite or no number: their bits are ordered as they are."""
    if not values.numel():
        return True
    width = 8 * values.element_size()
    bits = values.view(_INTEGERS[values.element_size()]).numpy()
    infinity = _INFINITY[values.dtype]
    # seen as signed integers the positive numbers are the largest, as unsigned ones the negative
    return bool(bits.max() < infinity and bits.view(f"u{width // 8}").max() < infinity | 1 << width - 1)


def _equal(left: Tensor, right: Tensor) -> int:
    """How many elements have the same bits."""
    bits = _INTEGERS[left.element_size()]  # numpy compares integers several times as fast as torch
    return int(np.count_nonzero(left.view(bits).numpy() == right.view(bits).numpy()))
