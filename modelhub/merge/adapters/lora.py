"""LoRA and LoCon: a product of low-rank factors.

``W + s c (up @ down)``, with ``c = alpha / rank`` and the rank the rows of *down*. A convolution's *down* has the
kernel, ``[r, in, kh, kw]``, and *up* is 1x1. In the CP form *down* is 1x1 too and *mid* ``[r, r, kh, kw]`` lies
between: ``einsum('mnkl,om,ni->oikl', mid, up, down)``. A file of an older LyCORIS may add a sparse delta to the product
before it is scaled (``bias_indices``, ``bias_values``, ``bias_size``).

Source: Hu et al. 2021 (arXiv 2106.09685); LyCORIS ``modules/locon.py``; the sparse delta as AUTOMATIC1111's
``extensions-builtin/Lora/network.py`` adds it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Additive, Shape, Tensors, fitting, flat, scale_of


class Lora(Additive):
    """``up`` ``[out, r]``, ``down`` ``[r, in]``, for convolutions with kernel; perhaps ``mid`` and a sparse delta."""

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        up, down, mid = flat(tensors["up"]), tensors["down"], tensors.get("mid")
        self._scale = scale_of(alpha, down.shape[0])
        self._shape = shape
        self._up = up
        if mid is None:
            self._right = flat(down)
        else:
            self._right = flat(torch.einsum("mnkl,ni->mikl", mid, flat(down)))
        if up.shape[1] != self._right.shape[0]:
            raise MergeError(f"its factors do not fit each other: {list(up.shape)} and {list(self._right.shape)}")
        self._sparse = _sparse(tensors, shape)

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        """See :class:`Update`; the product is added as it is made, which spares a block of memory and two passes."""
        if self._sparse is not None or not weight.is_contiguous():
            return super().apply(weight, first, strength)
        last = first + weight.shape[0]
        rows = fitting(weight, (last - first, self._right.shape[1]), "a product of factors")
        rows.addmm_(self._up[first:last], self._right, alpha=strength * self._scale)
        return weight

    def delta(self, first: int, last: int) -> Tensor:
        product = self._up[first:last] @ self._right
        if self._sparse is not None:
            product += self._sparse[first:last]
        return fitting(product.mul_(self._scale), self._shape, "a product of factors")


def _sparse(tensors: Tensors, shape: Shape) -> Tensor | None:
    """The sparse delta of an old LyCORIS file as a matrix of as many rows as the weight."""
    if "bias_values" not in tensors:
        return None
    size = [int(n) for n in tensors["bias_size"]]
    if math.prod(size) != math.prod(shape):
        raise MergeError(f"a sparse delta of {size} does not fit a weight of shape {list(shape)}")
    values = tensors["bias_values"]
    places = tuple(tensors["bias_indices"].long())
    return values.new_zeros(size).index_put(places, values, accumulate=True).reshape(shape[0], -1)
