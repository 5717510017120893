"""The merged numbers of one tensor, in blocks of rows through buffers that are used again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelhub.convert import PlannedTensor
from modelhub.errors import MergeError
from modelhub.merge.adapters import Update, make_update
from modelhub.merge.base import Change, PlannedAdapter, Precision, Told
from modelhub.merge.reading import Rows, torch_type, whole
from modelhub.merge.rounding import rounded, rounded_stochastically

BLOCK = 1 << 20
"""Elements of a block: so many in F32 stay in the processor's caches, and a block's temporaries with them."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A change, and the update that carries it out."""

    change: Change
    update: Update

    def to(self, weight: Tensor, first: int) -> None:
        """Change the rows of the base's tensor that *weight* is, from row *first* on, those of them that it is for."""
        begin, end = self.change.rows
        low, high = max(first, begin), min(first + weight.shape[0], end)
        if low >= high:
            return
        rows = weight[low - first : high - first]
        if self.change.transposed:
            seen = rows.t().contiguous()
            rows.copy_(self.update.apply(seen, 0, self.change.strength).t())
            return
        seen = rows.reshape(high - low, *self.change.shape[1:])
        merged = self.update.apply(seen, self.change.first + low - begin, self.change.strength)
        if merged.data_ptr() != rows.data_ptr():
            rows.copy_(merged.reshape(rows.shape))


class Buffers:
    """Memory for a block, kept from one to the next; one for each thread."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def get(self, use: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """A tensor of *shape* whose elements are whatever they were."""
        count = math.prod(shape)
        kept = self._kept.get((use, dtype))
        if kept is None or kept.numel() < count:
            kept = self._kept[use, dtype] = torch.empty(max(count, BLOCK), dtype=dtype)
        return kept[:count].reshape(tuple(shape))


def updates_of(changes: Sequence[Change], adapters: Sequence[PlannedAdapter], dtype: torch.dtype) -> list[Applied]:
    """The updates that *changes* are, to be computed in *dtype*; raises :class:`MergeError` naming the module."""
    made = []
    for change in changes:
        module = change.module
        tensors = {role: whole(piece, dtype) for role, piece in module.tensors.items()}
        scale = whole(module.magnitudes, dtype) if module.magnitudes is not None else None
        try:
            update = make_update(module.algorithm, tensors, module.alpha, change.shape, scale, peft=module.peft)
        except MergeError as error:
            raise MergeError(f"{adapters[change.adapter].use.path}: {module.name}: {error}") from error
        if not (update.by_rows or change.transposed) and change.rows[1] - change.rows[0] != change.shape[0]:
            raise MergeError(
                f"{adapters[change.adapter].use.path}: {module.name}: it needs the whole weight, which lies in several "
                "tensors of the base"
            )
        made.append(Applied(change, update))
    return made


class Computation:
    """The merged *planned*, block after block; what it did is in ``told`` once all blocks were asked for."""

    def __init__(
        self,
        planned: PlannedTensor,
        changes: Sequence[Change],
        adapters: Sequence[PlannedAdapter],
        precision: Precision,
        buffers: Buffers,
    ) -> None:
        (piece,) = planned.pieces
        self._planned = planned
        self._buffers = buffers
        self._rows = Rows(piece)
        self._source = torch_type(piece.tensor.dtype)
        self._target = torch_type(planned.dtype)
        wide = precision.exact or torch.float64 in (self._source, self._target)
        self._dtype = torch.float64 if wide else torch.float32
        self._seed = precision.seed
        self._updates = updates_of(changes, adapters, self._dtype)
        self._where = f"{piece.source.name}: tensor {planned.name!r:.100}"
        self.told = Told(0.0, 0.0, 0, 0)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """``(offset in bytes, elements in the output's type)``; a block is valid until the next is asked for."""
        shape = self._planned.shape or (1,)
        columns = math.prod(shape[1:])
        if not shape[0] * columns:
            return
        together = any(not applied.update.by_rows or applied.change.transposed for applied in self._updates)
        step = shape[0] if together else max(1, BLOCK // columns)
        weight = change = 0.0
        unchanged = 0
        for first in range(0, shape[0], step):
            count = min(step, shape[0] - first)
            stored = self._buffers.get("stored", self._source, (count, *shape[1:]))
            self._rows.read(first * columns, stored)
            before = self._buffers.get("before", self._dtype, stored.shape).copy_(stored)
            merged = self._buffers.get("merged", self._dtype, stored.shape).copy_(before)
            for applied in self._updates:
                applied.to(merged, first)
            made = self._buffers.get("made", self._target, stored.shape)
            self._round(merged, made, first)
            same = stored if self._source is self._target else before.to(self._target)
            unchanged += _equal(made, same)
            weight += _square(before)
            change += _square(before.sub_(merged))
            yield first * columns * made.element_size(), made
        self.told = Told(math.sqrt(weight), math.sqrt(change), shape[0] * columns, unchanged)

    def _round(self, merged: Tensor, made: Tensor, first: int) -> None:
        lowest, highest = (float(end) for end in torch.aminmax(merged))
        largest = torch.finfo(self._target).max
        if not -math.inf < lowest <= highest < math.inf:
            raise MergeError(f"{self._where}: merged, it has values that are not finite")
        if max(-lowest, highest) > largest:
            value = lowest if -lowest > highest else highest
            hint = "--dtype bf16 or fp32 keeps it in range"
            raise MergeError(f"{self._where}: merged, it has the value {value:.6g}, out of range", hint=hint)
        if self._seed is None:
            rounded(merged, made)
        else:
            seed = zlib.crc32(f"{self._seed}/{first}/{self._planned.name}".encode())
            rounded_stochastically(merged, made, torch.Generator().manual_seed(seed))


def _square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _equal(left: Tensor, right: Tensor) -> int:
    """How many elements have the same bits."""
    bits = _INTEGERS[left.element_size()]  # numpy compares integers several times as fast as torch
    return int(np.count_nonzero(left.view(bits).numpy() == right.view(bits).numpy()))
