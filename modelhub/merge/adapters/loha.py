"""LoHa: a Hadamard product of two products.

``W + s c (w1_a @ w1_b) * (w2_a @ w2_b)``, with ``c = alpha / rank`` and the rank the rows of *w1_b*. In the CP form
each factor is ``einsum('ijkl,jr,ip->prkl', t, w_b, w_a)`` with ``w_a`` ``[r, out]``, ``w_b`` ``[r, in]``, ``t``
``[r, r, kh, kw]``.

Source: Hyeon-Woo et al. 2022 (FedPara, arXiv 2108.06098); LyCORIS ``modules/loha.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Additive, Shape, Tensors, fitting, flat, scale_of


class Loha(Additive):
    """``w1_a``, ``w2_a`` ``[out, r]`` and ``w1_b``, ``w2_b`` ``[r, in]``; with ``t1``, ``t2`` the CP form."""

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        self._scale = scale_of(alpha, tensors["w1_b"].shape[0])
        self._shape = shape
        self._factors = [_factor(tensors, number) for number in ("1", "2")]
        sizes = {(left.shape[0], right.shape[1]) for left, right in self._factors}
        if len(sizes) > 1 or any(left.shape[1] != right.shape[0] for left, right in self._factors):
            raise MergeError(f"its factors do not fit each other: products of shapes {sorted(sizes)}")

    def delta(self, first: int, last: int) -> Tensor:
        (left_a, right_a), (left_b, right_b) = self._factors
        product = (left_a[first:last] @ right_a).mul_(left_b[first:last] @ right_b)
        return fitting(product.mul_(self._scale), self._shape, "a product of factors")


def _factor(tensors: Tensors, number: str) -> tuple[Tensor, Tensor]:
    """One of the two products as ``[out, r]`` and ``[r, in * kernel]``."""
    left, right, core = tensors[f"w{number}_a"], tensors[f"w{number}_b"], tensors.get(f"t{number}")
    if core is None:
        return left, flat(right)
    return left.T, flat(torch.einsum("ijkl,jr->irkl", core, flat(right)))
