"""Full differences, differences of norms and biases, and weights that replace.

``W + s diff`` (``diff``, ``diff_b``, ``w_norm``, ``b_norm``); ``set_weight`` replaces: ``W + s (set - W)``.

Source: LyCORIS ``modules/full.py``, ``modules/norms.py``; ComfyUI ``comfy/lora.py`` for ``set_weight``.
"""

from __future__ import annotations

from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Additive, Shape, Tensors, fitting


class Difference(Additive):
    """``diff``, in the weight's shape but for dimensions of size 1."""

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        self._diff = _as(tensors["diff"], shape)

    def delta(self, first: int, last: int) -> Tensor:
        return self._diff[first:last]


class Replacement:
    """``set``, in the weight's shape but for dimensions of size 1."""

    by_rows = True

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        self._new = _as(tensors["set"], shape)

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        new = self._new[first : first + weight.shape[0]]
        return weight.lerp_(new, strength)


def _as(tensor: Tensor, shape: Shape) -> Tensor:
    if tensor.shape[:1] != shape[:1]:
        raise MergeError(f"a difference of shape {list(tensor.shape)} does not fit a weight of shape {list(shape)}")
    return fitting(tensor, shape, "a difference")
