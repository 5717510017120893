"""LoKr: a Kronecker product of a small matrix and a larger one, each full or factored.

``W + s c kron(w1, w2)``: ``w1`` is full or ``w1_a @ w1_b``; ``w2`` is full, ``w2_a @ w2_b`` or, in the CP form,
``einsum('ijkl,ip,jr->prkl', t2, w2_a, w2_b)``. ``c = alpha / rank``, the rank being that of w1's factors or, where w1
is full, of w2's; where both are full there is no rank, alpha means nothing (LyCORIS writes huge ones) and ``c`` is 1.

Source: Edalati et al. 2022 (KronA, arXiv 2212.10650); LyCORIS ``modules/lokr.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Additive, Shape, Tensors, fitting, flat, scale_of


class Lokr(Additive):
    """``w1`` ``[a, b]`` and ``w2`` ``[c, d]`` (convolutions: with kernel), where ``a * c`` is out and ``b * d`` in."""

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        self._shape = shape
        ranks = [tensors[role].shape[0] for role in ("w1_b", "w2_b") if role in tensors]
        self._scale = scale_of(alpha, ranks[0]) if ranks else 1.0
        self._small = flat(tensors["w1"]) if "w1" in tensors else tensors["w1_a"] @ tensors["w1_b"]
        self._large = _large(tensors)
        if self._small.shape[0] * self._large.shape[0] != shape[0]:
            sizes = f"{list(self._small.shape)} and {list(self._large.shape)}"
            raise MergeError(f"a Kronecker product of {sizes} does not fit a weight of shape {list(shape)}")

    def delta(self, first: int, last: int) -> Tensor:
        # A row of the product is a row of w1 with one of w2; the columns come out in the order of [in, kh, kw].
        rows = self._large.shape[0]
        parts = [
            torch.kron(self._small[n : n + 1], self._large[max(first - n * rows, 0) : min(last - n * rows, rows)])
            for n in range(first // rows, -(-last // rows))
        ]
        product = parts[0] if len(parts) == 1 else torch.cat(parts)
        return fitting(product.mul_(self._scale), self._shape, "a Kronecker product")


def _large(tensors: Tensors) -> Tensor:
    """w2 as a matrix ``[c, d * kernel]``."""
    if "w2" in tensors:
        return flat(tensors["w2"])
    left, right, core = tensors["w2_a"], tensors["w2_b"], tensors.get("t2")
    if core is None:
        return left @ flat(right)
    return flat(torch.einsum("ijkl,ip,jr->prkl", core, left, right))
