"""GLoRA: a low-rank change that depends on the weight, and one that does not.

``W + s c (W a1 a2 + b1 b2)``, with ``a1`` ``[in, r]``, ``a2`` ``[r, in]``, ``b1`` ``[out, r]``, ``b2`` ``[r, in]``. An
older layout has each factor the other way round and the pairs swapped: ``W + s c (W a2 a1 + b2 b1)``.

Source: Chavan et al. 2023 (arXiv 2306.07967); LyCORIS ``modules/glora.py``; both layouts as ComfyUI
``comfy/weight_adapter/glora.py`` tells them apart, by shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Shape, Tensors, flat, scale_of


class Glora:
    """``a1``, ``a2``, ``b1``, ``b2`` in either layout."""

    by_rows = True

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        a1, a2, b1, b2 = (flat(tensors[role]) for role in ("a1", "a2", "b1", "b2"))
        new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0] and b1.shape[0] == shape[0]
        old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1] and b2.shape[0] == shape[0]
        if new == old:
            why = "fit both layouts of GLoRA" if new else "do not fit the weight"
            raise MergeError(f"its factors {why}: a weight of shape {list(shape)}")
        if old:
            a1, a2, b1, b2 = a2, a1, b2, b1
        self._scale = scale_of(alpha, a2.shape[0])
        self._a1, self._a2, self._b1, self._b2 = a1, a2, b1, b2

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        change = torch.einsum("oi...,ij,jk->ok...", weight, self._a1, self._a2)
        change += (self._b1[first : first + weight.shape[0]] @ self._b2).reshape(weight.shape)
        return weight.add_(change, alpha=strength * self._scale)
