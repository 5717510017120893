"""The largest singular values of a matrix and their vectors, without its others.

Block Krylov iteration after Musco and Musco 2015 (arXiv 1504.05477, algorithm 2). From a random block ``X`` of some
more columns than values are asked for, the space of ``A X, (A A') A X, (A A')^2 A X ...`` is built block by block, each
orthonormal to those before it; what the matrix is within the space gives the values. By their theorem 1 an error of
``1 + e`` of the best one takes some ``log(columns) / sqrt(e)`` blocks, whatever the spectrum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_OVERSAMPLED = 16
_SETTLED = 1e-3
"""The space is large enough where its last block caught less than this share of what is left outside."""

_NOTHING_LEFT = 1e-7
"""So small a share of the whole is F32's rounding, and nothing is looked for in it."""

_ROWS = 1 << 11
"""Rows that are computed with in F64 at a time."""

_DEPENDENT = 1e-12
"""Directions whose squared length is this share of the longest's are rounding."""


class Space(NamedTuple):
    """A space of ``d`` dimensions: its orthonormal ``basis [rows, d]``, the matrix as it is ``seen`` from there
    (``[columns, d]``), the singular ``values`` of that, the largest first, and the ``turn [d, d]`` of the basis to
    their vectors."""

    basis: Tensor
    seen: Tensor
    values: Tensor
    turn: Tensor


def leading(matrix: Tensor, count: int, energy: float) -> Space | None:
    """A space that has nearly the *count* largest singular values of *matrix*, F32 and not higher than wide.

    *energy* is the sum of all its elements' squares. What an approximation by the space's *count* values leaves, as a
    Frobenius norm, is at most a thousandth more than the least that any leaves, and the values are at most 3% too
    small: a millionth where they stand out from the others, most where all are nearly the same, as those of noise are.
    None is too large. ``None`` where the space would be more than half of all there is: decomposing the whole costs no
    more.
    """
    rows, columns = matrix.shape
    width = count + _OVERSAMPLED
    if 4 * width > rows:
        return None
    generator = torch.Generator().manual_seed(width)
    basis = block = _orthonormal(matrix @ torch.randn(columns, width, generator=generator))
    seen = [matrix.T @ block]
    gram = _products(seen)
    before = 0.0
    while True:
        values, turn = orders_of(gram)
        caught = float(values[:count].square().sum())
        left = max(energy - caught, 0.0)
        if left <= _NOTHING_LEFT * energy or caught - before <= _SETTLED * left:
            break
        before = caught
        if 2 * (basis.shape[1] + width) > rows:
            return None
        block = _outside(matrix @ seen[-1], basis)
        if not block.shape[1]:
            break
        basis = torch.cat((basis, block), 1)
        seen.append(matrix.T @ block)
        beside = _products(seen)
        gram = torch.cat((torch.cat((gram, beside[: len(gram)]), 1), beside.T))
    return Space(basis, torch.cat(seen, 1), values, turn.to(torch.float32))


def orders_of(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The singular values, the largest first, and the left singular vectors of what *gram* is the Gram matrix of."""
    squares, vectors = torch.linalg.eigh(gram)
    return squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)


def _products(blocks: list[Tensor]) -> Tensor:
    """The inner products of the columns of all *blocks* with those of the last, in F64."""
    found: Tensor = torch.zeros(())
    for parts in zip(*(torch.split(block, _ROWS) for block in blocks), strict=True):
        wide = torch.cat(parts, 1).to(torch.float64)
        found = found + wide.T @ wide[:, -parts[-1].shape[1] :]
    return found


def _outside(block: Tensor, basis: Tensor) -> Tensor:
    """An orthonormal basis of what *block* has outside the space of *basis*; once more, since the first one rounds."""
    for _ in range(2):
        block = block - basis @ (basis.T @ block)
        block = _orthonormal(block - basis @ (basis.T @ block))
    return block


def _orthonormal(block: Tensor) -> Tensor:
    """An orthonormal basis of the columns of *block*, fewer than those where they depend on each other."""
    wide = block.to(torch.float64)
    squares, vectors = torch.linalg.eigh(wide.T @ wide)
    kept = squares > _DEPENDENT * squares[-1]
    return (wide @ (vectors[:, kept] / squares[kept].sqrt())).to(torch.float32)
