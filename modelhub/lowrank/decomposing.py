"""The best approximation of a matrix by one of low rank, and how low that rank is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modelhub.lowrank.base import RankRule

_EXACT = 512
"""Rows or columns up to which all singular values are computed: fewer cost less than approximating some."""

_COLUMNS = 1 << 10
"""Columns that are computed with in F64 at a time."""

_OVERSAMPLED = 16
_MOST_ROUNDS = 12
_SETTLED = 1e-6


class Decomposed(NamedTuple):
    """The singular values that are kept, their vectors (``[rows, k]`` and ``[k, columns]``, the right ones multiplied
    with the values), and the sum of the squares of all singular values."""

    values: Tensor
    left: Tensor
    right: Tensor
    energy: float


def decompose(matrix: Tensor, rule: RankRule, most: int) -> Decomposed:
    """As many singular values of *matrix*, F32, as *rule* keeps, *most* at most.

    Where the smaller side has up to 512 rows, or where *rule* needs the sum of all values, they are exact: the
    eigenvalues of the Gram matrix in F64, which has the values down to 1e-8 of the first. Else they come from a random
    subspace of ``most + 16`` dimensions that is iterated until the energy in it grows by less than a millionth a
    round (Halko, Martinsson, Tropp 2011, arXiv 0909.4061, algorithm 4.4). By their theorem 10.9 and corollary 10.10 its
    error after q rounds exceeds the best one's by a factor whose (2q + 1)th root is taken; whatever it is, the energy
    that is told is what the kept vectors really hold.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = decompose(matrix.T, rule, most)
        values = _divisible(turned.values)
        return Decomposed(turned.values, turned.right.T / values, turned.left.T * turned.values[:, None], turned.energy)
    energy = _energy(matrix)
    whole = rule.dynamic is not None and rule.dynamic[0] == "sv_cumulative"
    if whole or min(matrix.shape) <= max(_EXACT, 2 * most):
        values, left = _largest_first(_gram(matrix))
        kept = kept_rank(values, energy, rule, most)
        left = left[:, :kept]
        return Decomposed(values[:kept], left, _product(left, matrix), energy)
    basis = _iterated(matrix, most)
    right = _product(basis, matrix)
    values, turn = _largest_first(right @ right.T)
    kept = kept_rank(values, energy, rule, most)
    turn = turn[:, :kept]
    return Decomposed(values[:kept], basis @ turn, turn.T @ right, energy)


def kept_rank(values: Tensor, energy: float, rule: RankRule, most: int) -> int:
    """How many of the singular *values*, the largest first, *rule* keeps: from 1 to *most*.

    *energy* is the sum of the squares of all; *values* are all of them where their sum is asked for.
    """
    most = max(1, min(most, len(values)))
    if rule.dynamic is None:
        return most
    how, number = rule.dynamic
    if how == "sv_ratio":
        count = int((values > values[0] / number).sum())
    elif how == "sv_fro":
        count = _first_reaching(torch.cumsum(values.square(), 0) / max(energy, 1e-300), number**2)
    else:
        count = _first_reaching(torch.cumsum(values, 0) / values.sum().clamp(min=1e-300), number)
    return max(1, min(count, most))


def _first_reaching(shares: Tensor, number: float) -> int:
    return int((shares < number * (1 - 1e-12)).sum()) + 1


def _energy(matrix: Tensor) -> float:
    parts = torch.split(matrix, _COLUMNS, 1)
    return sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in parts)


def _gram(matrix: Tensor) -> Tensor:
    """``matrix @ matrix.T`` in F64."""
    gram = torch.zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64)
    for columns in torch.split(matrix, _COLUMNS, 1):
        wide = columns.to(torch.float64)
        gram.addmm_(wide, wide.T)
    return gram


def _iterated(matrix: Tensor, most: int) -> Tensor:
    """An orthonormal basis ``[rows, most + 16]`` of nearly the space that *matrix* is largest in, in F64."""
    size = min(most + _OVERSAMPLED, matrix.shape[0])
    generator = torch.Generator().manual_seed(size)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], size, generator=generator)).Q
    before = 0.0
    for _ in range(_MOST_ROUNDS):
        other = torch.linalg.qr(matrix.T @ basis).Q
        seen = matrix @ other
        caught = float(torch.linalg.svdvals(seen.T @ seen)[:most].sum())
        basis = torch.linalg.qr(seen).Q
        if caught - before <= _SETTLED * caught:
            break
        before = caught
    orthonormal: Tensor = torch.linalg.qr(basis.to(torch.float64)).Q
    return orthonormal


def _product(left: Tensor, matrix: Tensor) -> Tensor:
    """``left.T @ matrix`` in F64."""
    return torch.cat([left.T @ columns.to(torch.float64) for columns in torch.split(matrix, _COLUMNS, 1)], 1)


def _largest_first(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The singular values, the largest first, and the left singular vectors of what *gram* is the Gram matrix of."""
    squares, vectors = torch.linalg.eigh(gram)
    return squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)


def balanced(found: Decomposed) -> tuple[Tensor, Tensor]:
    """The two factors, ``[rows, k]`` and ``[k, columns]``, each with the roots of the values: none is much larger."""
    root = _divisible(found.values).sqrt()
    return found.left * root, found.right / root[:, None]


def _divisible(values: Tensor) -> Tensor:
    """*values* with nothing so small that it is but rounding: what is divided by it stays no larger than it was."""
    return values.clamp(min=max(float(values[0]) * 1e-12, torch.finfo(values.dtype).tiny))
