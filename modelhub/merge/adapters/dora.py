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


class Dora:
    """*inner* with the magnitudes *scale*; *peft* says that PEFT wrote them, always one for each output."""

    def __init__(self, inner: Additive, scale: Tensor, shape: Shape, *, peft: bool = False) -> None:
        self._inner = inner
        self._on_output = _on_output(scale, shape, peft=peft)
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


def _on_output(scale: Tensor, shape: Shape, *, peft: bool) -> bool:
    """Whether there is a magnitude for each output, and not for each input."""
    count = scale.numel()
    long = [n for n, size in enumerate(scale.shape) if size != 1]
    if len(long) <= 1 and len(shape) > 1:
        if peft or scale.dim() < 2:
            if count == shape[0]:
                return True
        elif count == shape[0] and scale.shape[0] == count and (count != 1 or shape[1] != 1):
            return True
        elif count == shape[1] and scale.shape[1] == count:
            return False
    raise MergeError(f"magnitudes of shape {list(scale.shape)} do not fit a weight of shape {list(shape)}")
