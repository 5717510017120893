"""The blending of one tensor: rows of the others are read as A's come by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modelhub.blend.base import Blended, MethodName
from modelhub.blend.methods import METHODS, slerp_factors
from modelhub.convert import Piece
from modelhub.errors import MergeError
from modelhub.merge.compute import BLOCK, Buffers
from modelhub.merge.reading import Rows, torch_type


class _Reader:
    """A tensor's rows in the type to compute in, of their first *columns* input channels."""

    def __init__(self, piece: Piece, dtype: torch.dtype, columns: int | None, use: str) -> None:
        self._rows = Rows(piece)
        self._stored = torch_type(piece.tensor.dtype)
        self._inner = piece.tensor.shape[1:]
        self._dtype = dtype
        self._columns = columns
        self._use = use

    def read(self, first: int, count: int, buffers: Buffers, device: torch.device) -> Tensor:
        """Rows ``[first, first + count)``, valid until the next are read."""
        shape = (count, *self._inner)
        stored = buffers.get(f"{self._use}, stored", self._stored, shape)
        self._rows.read(first * math.prod(self._inner), stored)
        wide = buffers.get(self._use, self._dtype, shape, device).copy_(stored)
        return wide if self._columns is None else wide[:, : self._columns]


class Blending:
    """Blends one tensor of A; a :class:`~modelhub.merge.compute.Maker`. It is used by one thread."""

    whole = False
    runs = None

    def __init__(
        self,
        a: Piece,
        how: Blended,
        method: MethodName,
        *,
        dtype: torch.dtype,
        buffers: Buffers,
        device: torch.device,
    ) -> None:
        """For *method* ``slerp`` A and B are read through once. Raises :class:`MergeError` where they are opposite."""
        self._how = how
        self._method = method
        self._buffers = buffers
        self._device = device
        self._others = [_Reader(piece, dtype, how.columns, f"other {n}") for n, piece in enumerate(how.others)]
        self._factors = self._slerp(a, dtype) if method == "slerp" else (0.0, 0.0)

    def make(self, weight: Tensor, first: int) -> None:
        """Blend into *weight*, A's rows from *first* on."""
        count = weight.shape[0]
        a = weight if self._how.columns is None else weight[:, : self._how.columns]
        others = [each.read(first, count, self._buffers, self._device) for each in self._others]
        if self._method == "slerp":
            ours, theirs = self._factors
            a.mul_(ours).add_(others[0], alpha=theirs)
        else:
            METHODS[self._method](a, others, self._how.alpha, self._how.beta)

    def _slerp(self, a: Piece, dtype: torch.dtype) -> tuple[float, float]:
        ours = _Reader(a, dtype, self._how.columns, "ours")
        sums = [0.0, 0.0, 0.0]
        for first, count in _blocks(a.tensor.shape):
            left = ours.read(first, count, self._buffers, self._device)
            right = self._others[0].read(first, count, self._buffers, self._device)
            for n, each in enumerate((left, right, left - right)):
                sums[n] += float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2
        a_norm, b_norm, distance = map(math.sqrt, sums)
        factors = slerp_factors(a_norm, b_norm, distance, self._how.alpha)
        if factors is None:
            which = f"{a.source.name}: tensor {a.tensor.name!r:.100}"
            raise MergeError(f"{which} points the opposite way in B: there is no arc between them")
        return factors


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield first, min(step, shape[0] - first)
