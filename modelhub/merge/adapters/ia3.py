"""(IA)^3: rows or columns scaled.

``W * (1 + s w)``: each row by its own factor, or with *on_input* each column (input channel). PEFT keeps ``l = 1 + w``,
and scales a bias as it does the rows.

Source: Liu et al. 2022 (arXiv 2205.05638); LyCORIS ``modules/ia3.py``; PEFT ``tuners/ia3/layer.py``.
"""

from __future__ import annotations

from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Shape, Tensors


class Ia3:
    """``weight``, one number for each output or, where ``on_input`` is true, for each input; ``outputs`` or ``inputs``,
    PEFT's."""

    by_rows = True

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        if "weight" in tensors:
            self._on_input = bool(tensors["on_input"].reshape(-1)[0]) if "on_input" in tensors else False
            self._factors = tensors["weight"].reshape(-1)
        else:
            self._on_input = "inputs" in tensors
            self._factors = tensors["inputs" if self._on_input else "outputs"].reshape(-1) - 1
        if self._factors.shape[0] != shape[1 if self._on_input else 0]:
            side = "inputs" if self._on_input else "outputs"
            raise MergeError(f"{self._factors.shape[0]} factors for the {side} of a weight of shape {list(shape)}")

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        axis = 1 if self._on_input else 0
        factors = self._factors if self._on_input else self._factors[first : first + weight.shape[0]]
        shape = [1] * weight.dim()
        shape[axis] = -1
        return weight.mul_((factors * strength + 1).reshape(shape))
