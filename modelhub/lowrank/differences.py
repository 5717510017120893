"""What one model's weights are less another's, read in blocks into memory that is used again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from modelhub.convert import Piece
from modelhub.errors import MergeError
from modelhub.lowrank.base import Difference, ExtractedModule
from modelhub.merge import Address
from modelhub.merge.compute import Buffers
from modelhub.merge.reading import Rows, torch_type

_BLOCK = 1 << 17
"""Elements that are read and subtracted at a time: they stay in the processor's nearer caches."""


def difference(module: ExtractedModule, tuned: str, buffers: Buffers) -> Tensor | None:
    """The change of *module* as a matrix in F32, each output a row, good until *buffers* are used for another one.

    ``None`` where it did not change. Raises :class:`MergeError`, which names the model *tuned*, for one that is not
    finite.
    """
    columns = math.prod(module.parts[0].base.tensor.shape[1:])
    rows = sum(part.rows[1] - part.rows[0] for part in module.parts)
    matrix = buffers.get("difference", torch.float32, (rows, columns))
    first = 0
    for part in module.parts:
        count = part.rows[1] - part.rows[0]
        _subtract(part, matrix[first : first + count], buffers)
        first += count
    lowest, highest = (float(each) for each in torch.aminmax(matrix))
    if not -math.inf < lowest <= highest < math.inf:
        raise MergeError(f"{tuned}: {module.name}: its weights have values that are not finite")
    if lowest == highest == 0:
        return None
    return matrix.T if module.transposed else matrix


def changes(pairs: Mapping[Address, tuple[Piece, Piece]]) -> Iterator[tuple[Address, tuple[float, float]]]:
    """Of the *pairs*, tuned and base, that differ: the norms of the change and of the weight."""
    buffers = Buffers()
    for address, (tuned, base) in pairs.items():
        if not base.tensor.numel:
            continue
        ours, theirs = _Wide(tuned, "tuned", buffers), _Wide(base, "base", buffers)
        rows = base.tensor.shape[0] if base.tensor.shape else 1
        step = max(1, _BLOCK // ours.columns)
        change = weight = 0.0
        for first in range(0, rows, step):
            count = min(step, rows - first)
            new, old = ours.rows(first, count), theirs.rows(first, count)
            weight += _square(old)
            change += _square(new - old)
        if change:
            yield address, (math.sqrt(change), math.sqrt(weight))


def _subtract(part: Difference, into: Tensor, buffers: Buffers) -> None:
    tuned, base = _Wide(part.tuned, "tuned", buffers), _Wide(part.base, "base", buffers)
    step = max(1, _BLOCK // into.shape[1])
    for start in range(0, into.shape[0], step):
        rows = into[start : start + step]
        first = part.rows[0] + start
        torch.sub(tuned.rows(first, rows.shape[0]), base.rows(first, rows.shape[0]), out=rows)


class _Wide:
    """The rows of *piece* in F32, or in F64 where it is of that, in the *buffers* for *use*."""

    def __init__(self, piece: Piece, use: str, buffers: Buffers) -> None:
        self.columns = math.prod(piece.tensor.shape[1:])
        self._rows = Rows(piece)
        self._dtype = torch_type(piece.tensor.dtype)
        self._use = use
        self._buffers = buffers

    def rows(self, first: int, count: int) -> Tensor:
        """*count* rows from *first* on, good until the next are asked for."""
        stored = self._buffers.get(f"{self._use}, stored", self._dtype, (count, self.columns))
        self._rows.read(first * self.columns, stored)
        if self._dtype in (torch.float32, torch.float64):
            return stored
        return self._buffers.get(self._use, torch.float32, stored.shape).copy_(stored)


def _square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
