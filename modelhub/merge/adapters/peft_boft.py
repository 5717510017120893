"""BOFT of PEFT: rotations of a weight's inputs in butterfly passes, and a factor for each output.

``boft_R`` ``[m, n, b, b]`` has *n* blocks ``B`` for each of *m* passes. Each is the rotation
``R = (I - Q)(I + Q)^-1`` with ``Q = (B - B^T) / 2`` (Cayley). In pass *i* a block turns two halves of ``b / 2`` inputs
each, of convolutions with their kernel, that lie ``2^i * b / 2`` apart. With *P* for all passes, the first at the
right, ``D = boft_s * (W P^T)``, and then ``W + s (D - W)``.

Source: Liu et al. 2023 (arXiv 2311.06243); PEFT ``tuners/boft/layer.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Shape, Tensors
from modelhub.merge.adapters.rotations import cayley, half_skew


class PeftBoft:
    """``blocks`` ``[m, n, b, b]`` and perhaps ``scale``, one number for each output."""

    by_rows = True

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        blocks = tensors["blocks"]
        passes, count, size, _ = blocks.shape
        if count * size != math.prod(shape[1:]) or (passes > 1 and (size % 2 or count % 2 ** (passes - 1))):
            raise MergeError(f"blocks of shape {list(blocks.shape)} do not fit a weight of shape {list(shape)}")
        self._turns = cayley(half_skew(blocks))
        self._scale = tensors.get("scale")

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        rows = weight.shape[0]
        turned = weight.reshape(rows, -1)
        for number, turn in enumerate(self._turns):
            turned = _pass(turned, turn, number)
        if self._scale is not None:
            turned = turned * self._scale.reshape(-1, 1)[first : first + rows]
        return weight.lerp_(turned.reshape(weight.shape), strength)


def _pass(weight: Tensor, turn: Tensor, number: int) -> Tensor:
    """The columns of *weight* ``[rows, inputs]`` turned by the blocks *turn* of pass *number*."""
    rows, (count, size, _) = weight.shape[0], turn.shape
    if number == 0:
        return torch.einsum("rnb,ncb->rnc", weight.reshape(rows, count, size), turn).reshape(rows, -1)
    halves = weight.reshape(rows, -1, 2, 2**number, size // 2).transpose(2, 3)
    turned = torch.einsum("rnb,ncb->rnc", halves.reshape(rows, count, size), turn)
    return turned.reshape(halves.shape).transpose(2, 3).reshape(rows, -1)
