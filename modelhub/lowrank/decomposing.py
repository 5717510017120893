"""The best approximation of a matrix by one of low rank, and how low that rank is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from modelhub.lowrank.base import RankRule
from modelhub.lowrank.krylov import leading, orders_of

_COLUMNS = 1 << 10
"""Columns that are computed with in F64 at a time."""

_FIRST_LIMIT = 32
_TAME = 1e-10, 1e10
"""Between these sizes of the largest element no square of F32 that counts is lost or out of range."""


class Decomposed(NamedTuple):
    """The singular values that are kept, their vectors (``[rows, k]`` and ``[k, columns]``, the right ones multiplied
    with the values), and the sum of the squares of all singular values."""

    values: Tensor
    left: Tensor
    right: Tensor
    energy: float


def decompose(matrix: Tensor, rule: RankRule, most: int, *, exact: bool = False) -> Decomposed:
    """As many singular values of *matrix*, F32 and not zero, as *rule* keeps, *most* at most.

    They come from a Krylov space where that settles (:func:`modelhub.lowrank.krylov.leading` says how near they are); a
    rule that may need fewer than *most* is tried with 32 values first, then twice as many, and so on. Otherwise, with
    *exact*, and where *rule* needs the sum of all values, they are from the eigenvalues of the Gram matrix in F64,
    which has the values down to 1e-8 of the first. A matrix of a lower rank may have fewer.
    """
    lowest, highest = (abs(float(each)) for each in torch.aminmax(matrix))
    largest = max(lowest, highest)
    if not _TAME[0] < largest < _TAME[1]:
        scale = math.ldexp(1.0, math.frexp(largest)[1])
        found = decompose(matrix / scale, rule, most, exact=exact)
        return Decomposed(found.values * scale, found.left, found.right * scale, found.energy * scale**2)
    if matrix.shape[0] > matrix.shape[1]:
        turned = decompose(matrix.T, rule, most, exact=exact)
        values = _divisible(turned.values)
        return Decomposed(turned.values, turned.right.T / values, turned.left.T * turned.values[:, None], turned.energy)
    energy = energy_of(matrix)
    whole = exact or (rule.dynamic is not None and rule.dynamic[0] == "sv_cumulative")
    for limit in () if whole else _limits(rule, most):
        space = leading(matrix, limit, energy)
        if space is None:
            break
        kept = kept_rank(space.values, energy, rule, limit)
        if limit == most or kept < limit:
            turn = space.turn[:, :kept]
            return Decomposed(space.values[:kept], space.basis @ turn, turn.T @ space.seen.T, energy)
    values, left = orders_of(_gram(matrix))
    left = left[:, : kept_rank(values, energy, rule, most)]
    return Decomposed(values[: left.shape[1]], left, _product(left, matrix), energy)


def kept_rank(values: Tensor, energy: float, rule: RankRule, most: int) -> int:
    """How many of the singular *values*, the largest first, *rule* keeps: from 1 to *most*.

    *energy* is the sum of the squares of all; *values* are all of them where their sum is asked for.
    """
    most = max(1, min(most, len(values)))
    if rule.dynamic is None:
        return most
    if not energy:
        return 1
    how, number = rule.dynamic
    if how == "sv_ratio":
        count = int((values > values[0] / number).sum())
    elif how == "sv_fro":
        count = _first_reaching(torch.cumsum(values.square(), 0) / energy, number**2)
    else:
        count = _first_reaching(torch.cumsum(values, 0) / values.sum(), number)
    return max(1, min(count, most))


def _first_reaching(shares: Tensor, number: float) -> int:
    return int((shares < number * (1 - 1e-12)).sum()) + 1


def _limits(rule: RankRule, most: int) -> Iterator[int]:
    """How many values are looked for: *most*, or by a rule that may need fewer these first."""
    limit = _FIRST_LIMIT
    while rule.dynamic is not None and limit < most:
        yield limit
        limit *= 2
    yield most


def energy_of(matrix: Tensor) -> float:
    """The sum of the squares of all elements of *matrix*, or of all its singular values."""
    rows = matrix if matrix.is_contiguous() else matrix.T
    return float(torch.linalg.vector_norm(rows, dim=1).to(torch.float64).square().sum())


def _gram(matrix: Tensor) -> Tensor:
    """``matrix @ matrix.T`` in F64."""
    gram = torch.zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64)
    for columns in torch.split(matrix, _COLUMNS, 1):
        wide = columns.to(torch.float64)
        gram.addmm_(wide, wide.T)
    return gram


def _product(left: Tensor, matrix: Tensor) -> Tensor:
    """``left.T @ matrix`` in F64."""
    return torch.cat([left.T @ columns.to(torch.float64) for columns in torch.split(matrix, _COLUMNS, 1)], 1)


def balanced(found: Decomposed) -> tuple[Tensor, Tensor]:
    """The two factors, ``[rows, k]`` and ``[k, columns]``, each with the roots of the values: none is much larger."""
    root = _divisible(found.values).sqrt()
    return found.left * root, found.right / root[:, None]


def _divisible(values: Tensor) -> Tensor:
    """*values* with nothing so small that it is but rounding: what is divided by it stays no larger than it was."""
    return values.clamp(min=max(float(values[0]) * 1e-12, torch.finfo(values.dtype).tiny))
