"""The methods, each a formula on rows of the same tensor of two or three models; A's rows are changed in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from modelhub.blend.base import MethodName

Method = Callable[[Tensor, Sequence[Tensor], float, float], None]

_TRAINED = 1.8
"""supermerger's factor of a train difference."""


def weighted(a: Tensor, others: Sequence[Tensor], alpha: float, beta: float) -> None:
    """``(1 - alpha) A + alpha B``, with C ``(1 - alpha - beta) A + alpha B + beta C`` (supermerger's triple sum)."""
    if len(others) == 1:
        a.lerp_(others[0], alpha)
        return
    first, second = others
    change = (first - a).mul_(alpha).add_(second - a, alpha=beta)
    a.add_(change)


def sum_twice(a: Tensor, others: Sequence[Tensor], alpha: float, beta: float) -> None:
    """``(1 - beta) ((1 - alpha) A + alpha B) + beta C`` (supermerger)."""
    a.lerp_(others[0], alpha).lerp_(others[1], beta)


def add_difference(a: Tensor, others: Sequence[Tensor], alpha: float, beta: float) -> None:
    """``A + alpha (B - C)``."""
    a.add_(others[0] - others[1], alpha=alpha)


def train_difference(a: Tensor, others: Sequence[Tensor], alpha: float, beta: float) -> None:
    """``A + 1.8 alpha (B - C) |B - A| / (|B - C| + |B - A|)``, 0 / 0 being 0 (supermerger's trainDifference)."""
    change = others[0] - others[1]
    distance = (others[0] - a).abs_()
    share = distance / (change.abs() + distance)
    a.add_(change.mul_(share.nan_to_num_(0.0)), alpha=_TRAINED * alpha)


def slerp_factors(a_norm: float, b_norm: float, distance: float, alpha: float) -> tuple[float, float] | None:
    """What A and B are multiplied with to go *alpha* of the way from A to B on the arc between them:
    ``sin((1 - alpha) t) / sin t`` and ``sin(alpha t) / sin t``, where *t* is the angle between them.

    *distance* is the norm of A - B: of models that are nearly the same the angle follows from it, where their product
    would say 0. Of the same direction, or no direction, the arc is the straight line; between opposite ones there is
    none (``None``). Shoemake 1985, "Animating rotation with quaternion curves"; mergekit's ``slerp`` for weights, in
    which A and B keep their lengths too.
    """
    if not a_norm or not b_norm:
        return 1.0 - alpha, alpha
    apart = max(0.0, distance**2 - (a_norm - b_norm) ** 2) / (a_norm * b_norm)  # of the unit vectors, squared
    angle = 2.0 * math.asin(min(1.0, math.sqrt(apart) / 2.0))
    if angle < 1e-6:
        return 1.0 - alpha, alpha
    if math.pi - angle < 1e-6:
        return None
    return math.sin((1.0 - alpha) * angle) / math.sin(angle), math.sin(alpha * angle) / math.sin(angle)


METHODS: Mapping[MethodName, Method] = {
    "weighted": weighted,
    "sum-twice": sum_twice,
    "add-difference": add_difference,
    "train-difference": train_difference,
}
"""Those that need nothing but the same rows; slerp needs the norms of whole tensors first."""
