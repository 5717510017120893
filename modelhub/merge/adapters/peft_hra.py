"""HRA of PEFT: reflections of a weight's inputs, one after the other.

``hra_u`` ``[in, r]``, of convolutions with their kernel, has *r* directions, which are made ``u`` of length 1:
``D = W (I - 2 u_1 u_1^T) ... (I - 2 u_r u_r^T)``, and then ``W + s (D - W)``. With *orthogonal* (``apply_GS``) they are
made orthogonal first, each to those before it, and ``D = W (I - 2 U U^T)``.

Source: Yuan et al. 2024 (arXiv 2405.17484); PEFT ``tuners/hra/layer.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Shape, Tensors


class PeftHra:
    """``u``, a direction of the inputs in each column."""

    by_rows = True

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape, *, orthogonal: float = 0) -> None:
        directions = tensors["u"]
        if directions.dim() != 2 or directions.shape[0] != math.prod(shape[1:]):
            raise MergeError(f"directions of shape {list(directions.shape)} do not fit a weight of shape {list(shape)}")
        if orthogonal:
            self._turns = [torch.linalg.qr(directions).Q]
        else:
            units = directions / torch.linalg.vector_norm(directions, dim=0)
            self._turns = list(units.split(1, dim=1))

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        turned = weight.reshape(weight.shape[0], -1)
        for turn in self._turns:
            turned = turned.addmm(turned @ turn, turn.T, alpha=-2)
        return weight.lerp_(turned.reshape(weight.shape), strength)
