"""OFT and BOFT: rotations of a weight's outputs.

Each block ``B`` gives the rotation ``R = (I + Q)(I - Q)^-1`` with ``Q = B - B^T`` (Cayley). Where alpha is positive,
all Q of a module together, those of every pass, are made no longer than ``alpha * out``. OFT turns each run of ``b``
outputs by its block, ``einsum('knm,kn...->km...', I + s (R - I), W)``; BOFT does so in *m* butterfly passes, between
which outputs change places. A ``rescale`` then scales each output, ``1 + s (rescale - 1)``, so that nothing is left of
it at strength 0. sd-scripts gives the parts of a fused layer (FLUX's ``qkv`` and ``linear1``) blocks of their own, and
alpha limits the Q of each part by its outputs.

Source: Qiu et al. 2023 (arXiv 2306.07280), Liu et al. 2023 (arXiv 2311.06243); LyCORIS ``modules/diag_oft.py``,
``modules/boft.py``; sd-scripts ``networks/oft_flux.py``. PEFT's are others: see ``peft_oft.py`` and ``peft_boft.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Shape, Tensors
from modelhub.merge.adapters.rotations import cayley


class Oft:
    """``blocks`` ``[n, b, b]`` (OFT) or ``[m, n, b, b]`` (BOFT), perhaps ``rescale``, one number for each output;
    with ``blocks.1``, ``blocks.2`` ... those are of the first outputs and these of the next."""

    by_rows = False

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape) -> None:
        parts = [tensors["blocks"]]
        while (more := tensors.get(f"blocks.{len(parts)}")) is not None:
            parts.append(more)
        self._parts = [_Turning(blocks, alpha) for blocks in parts]
        if sum(part.outputs for part in self._parts) != shape[0]:
            sizes = " and ".join(str(list(blocks.shape)) for blocks in parts)
            raise MergeError(f"blocks of shape {sizes} do not fit a weight of shape {list(shape)}")
        self._rescale = tensors.get("rescale")

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        runs = weight.split([part.outputs for part in self._parts])
        turned = [part.turned(run, strength) for part, run in zip(self._parts, runs, strict=True)]
        weight = turned[0] if len(turned) == 1 else torch.cat(turned)
        if self._rescale is not None:
            scale = (self._rescale.reshape(-1) - 1) * strength + 1
            weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        return weight


class _Turning:
    """The rotations of a run of outputs by *blocks*."""

    def __init__(self, blocks: Tensor, alpha: float | None) -> None:
        if blocks.dim() not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
            raise MergeError(f"blocks of shape {list(blocks.shape)} are no rotations")
        self.outputs = blocks.shape[-3] * blocks.shape[-1]
        passes, half = blocks.shape[0], blocks.shape[-1] // 2
        if blocks.dim() == 4 and (blocks.shape[-1] % 2 or self.outputs % (2**passes * half)):
            raise MergeError(f"{passes} butterfly passes do not divide {self.outputs} outputs")
        self._butterfly = blocks.dim() == 4
        self._turns = _rotations(blocks, (alpha or 0.0) * self.outputs).reshape(-1, *blocks.shape[-3:])

    def turned(self, weight: Tensor, strength: float) -> Tensor:
        """The outputs' weights, turned."""
        one = torch.eye(self._turns.shape[-1], dtype=weight.dtype, device=weight.device)
        turns = one + (self._turns - one) * strength
        if self._butterfly:
            for number, turn in enumerate(turns):
                weight = _pass(weight, turn, number)
            return weight
        blocks = weight.reshape(*turns.shape[1:3], *weight.shape[1:])
        return torch.einsum("knm,kn...->km...", turns[0], blocks).reshape(weight.shape)


def _rotations(blocks: Tensor, limit: float) -> Tensor:
    """The rotations of *blocks*, whose skew parts together are made no longer than *limit*; 0 is none."""
    skew = blocks - blocks.transpose(-1, -2)
    length = skew.norm()
    if 0 < limit < length:
        skew = skew * (limit / length)
    return cayley(-skew)


def _pass(weight: Tensor, turn: Tensor, number: int) -> Tensor:
    """One butterfly pass: outputs that lie ``2^number * b / 2`` apart are turned together."""
    size = turn.shape[-1]
    apart = 2**number * (size // 2)
    rest = weight.shape[1:]
    mixed = weight.reshape(-1, 2, apart, *rest).transpose(1, 2).reshape(-1, size, *rest)
    turned = torch.einsum("bij,bj...->bi...", turn, mixed)
    return turned.reshape(-1, apart, 2, *rest).transpose(1, 2).reshape(weight.shape)
