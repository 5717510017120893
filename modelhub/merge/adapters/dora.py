"""DoRA: direction and magnitude apart.

``V = W + delta``, ``D = V * scale / norm(V)`` and then ``W + s (D - W)``, so that strength 0 is exactly the base. Three
laws of strength are published; this is that of AUTOMATIC1111 and InvokeAI (LyCORIS scales the magnitude alone, PEFT
puts the strength into V; at strength 1 all agree). The norm is over all that shares an output channel, or an input
channel.

Source: Liu et al. 2024 (arXiv 2402.09353); the axis by the shape of ``dora_scale``: ``[out, 1]`` LyCORIS today,
``[1, in]`` OneTrainer and LyCORIS before, one dimension (or ``[1, out, 1, 1]``, convolutions) PEFT.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Additive, Shape
from modelhub.merge.fitting import on_output


class Dora:
    """*inner* with the magnitudes *scale*; *peft* says that PEFT wrote them, always one for each output."""

    def __init__(self, inner: Additive, scale: Tensor, shape: Shape, *, peft: bool = False) -> None:
        self._inner = inner
        found = on_output(tuple(scale.shape), shape, peft=peft)
        if found is None:
            raise MergeError(f"magnitudes of shape {list(scale.shape)} do not fit a weight of shape {list(shape)}")
        self._on_output = found
        self.by_rows = self._on_output
        self._scale = scale.reshape(-1)

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        last = first + weight.shape[0]
        changed = weight + self._inner.delta(first, last)
        axis = 0 if self._on_output else 1
        others = [n for n in range(weight.dim()) if n != axis]
        length = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        scale = self._scale[first:last] if self._on_output else self._scale
        factor = scale.reshape(length.shape) / length
        changed.mul_(factor.masked_fill_(length == 0, 0))
        return weight.lerp_(changed, strength)
