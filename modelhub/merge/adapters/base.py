"""What every algorithm is to the one who merges: an update of one weight, computed in blocks of its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from modelhub.errors import MergeError

Tensors = Mapping[str, Tensor]
"""The tensors of one adapter module by role, in the precision to compute in."""

Shape = tuple[int, ...]


class Update(Protocol):
    """What one module of an adapter does to a weight of a given shape, ``[out, in]`` or ``[out, in, *kernel]``.

    ``by_rows`` says that a block of rows can be had from the same rows of the weight alone.
    """

    by_rows: bool

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        """The merged rows, of the weight's rows from *first* on; *weight* itself may be changed and given back.

        At *strength* 0 it is *weight*. Where not ``by_rows``, *weight* is all of it.
        """
        ...


class Additive(ABC):
    """An update that adds ``strength * delta``."""

    by_rows = True

    @abstractmethod
    def delta(self, first: int, last: int) -> Tensor:
        """Rows ``[first, last)`` of what is added at strength 1, in the weight's shape."""

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        """See :class:`Update`."""
        return weight.add_(self.delta(first, first + weight.shape[0]), alpha=strength)


def scale_of(alpha: float | None, rank: int) -> float:
    """``alpha / rank``; 1 where there is no alpha (kohya's and LyCORIS's convention)."""
    return 1.0 if alpha is None else alpha / rank


def flat(matrix: Tensor) -> Tensor:
    """A factor as a matrix: what a convolution has beyond its first dimension is its columns."""
    return matrix.reshape(matrix.shape[0], -1)


def fitting(delta: Tensor, shape: Shape, what: str) -> Tensor:
    """*delta* in the weight's *shape*; :class:`MergeError` where it has not as many elements a row."""
    if delta.shape[1:].numel() != _numel(shape[1:]):
        raise MergeError(f"{what} of shape {list(delta.shape)} does not fit a weight of shape {list(shape)}")
    return delta.reshape(delta.shape[0], *shape[1:])


def _numel(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
