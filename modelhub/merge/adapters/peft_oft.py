"""OFT of PEFT: rotations of a weight's inputs, and in its first form of its outputs.

The inputs, of convolutions with their kernel, are turned in runs of ``b`` by one rotation each, or all by the same one
where a module has one for many runs: ``D = W R^T``, and then ``W + s (D - W)``. Three forms of it are published.

* ``oft_R`` ``[n, b (b - 1) / 2]`` (PEFT from 0.16 on) is the upper triangle, row by row, of a skew ``Q``.
  ``R = (I - Q)(I + Q)^-1`` (Cayley) or, with *terms*, the beginning of its series ``I + 2 Q + 2 Q^2 + ...`` up to the
  power ``terms - 1`` (Cayley-Neumann). From PEFT 0.18 on the last power has no factor 2, where it is the third or
  higher, and is at least the third where there are three terms: *halved*.
* ``oft_r`` ``[n, b, b]`` with ``oft_s`` ``[out, 1]`` (0.14 and 0.15): ``Q = (B - B^T) / 2``, ``R`` by Cayley, and
  ``D = oft_s * (W R^T)``.
* ``oft_r`` alone (to 0.13) turns the outputs, ``D = R^T W``; what the last run has beyond the outputs is cut off.

In the constrained variant (COFT) no block is longer than *eps* over the square root of their number: ``Q`` is meant in
the first form, ``B`` in the others, where *eps* is multiplied with the square of the outputs over the runs.

Source: Qiu et al. 2023 (arXiv 2306.07280), Qiu et al. 2025 (arXiv 2506.19847); PEFT ``tuners/oft/layer.py`` in each
of these versions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters.base import Shape, Tensors
from modelhub.merge.adapters.rotations import cayley, half_skew, no_longer


class PeftOft:
    """``triangles``, or ``square`` blocks and ``scale``: rotations of the inputs."""

    by_rows = True

    def __init__(
        self,
        tensors: Tensors,
        alpha: float | None,
        shape: Shape,
        *,
        eps: float | None = None,
        terms: float | None = None,
        halved: float = 0,
    ) -> None:
        columns = math.prod(shape[1:])
        self._scale = tensors.get("scale")
        if "triangles" in tensors:
            skew = no_longer(_from_triangles(tensors["triangles"]), eps)
            self._turns = cayley(skew) if terms is None else _series(skew, int(terms), halved=bool(halved))
        else:
            square = tensors["square"]
            runs = columns // square.shape[-1]
            limit = None if eps is None else eps * math.ceil(shape[0] / runs) ** 2
            self._turns = cayley(half_skew(no_longer(square, limit)))
        count, size, _ = self._turns.shape
        if columns % size or count not in (1, columns // size):
            raise MergeError(f"{count} rotations of {size} do not fit a weight of shape {list(shape)}")

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        rows, size = weight.shape[0], self._turns.shape[-1]
        runs = weight.reshape(rows, -1, size)
        turned = torch.einsum("rnb,ncb->rnc", runs, self._turns.expand(runs.shape[1], size, size))
        if self._scale is not None:
            turned = turned * self._scale.reshape(-1, 1, 1)[first : first + rows]
        return weight.lerp_(turned.reshape(weight.shape), strength)


class OldPeftOft:
    """``square`` blocks: rotations of the outputs."""

    by_rows = False

    def __init__(self, tensors: Tensors, alpha: float | None, shape: Shape, *, eps: float | None = None) -> None:
        square = tensors["square"]
        count, size, _ = square.shape
        if count not in (1, math.ceil(shape[0] / size)):
            raise MergeError(f"{count} rotations of {size} do not fit a weight of shape {list(shape)}")
        self._turns = cayley(half_skew(no_longer(square, None if eps is None else eps * size**2)))

    def apply(self, weight: Tensor, first: int, strength: float) -> Tensor:
        size = self._turns.shape[-1]
        count = math.ceil(weight.shape[0] / size)
        rows = weight.reshape(weight.shape[0], -1)
        runs = torch.nn.functional.pad(rows, (0, 0, 0, count * size - rows.shape[0])).reshape(count, size, -1)
        turned = torch.einsum("nji,njc->nic", self._turns.expand(count, size, size), runs)
        return weight.lerp_(turned.reshape(count * size, -1)[: rows.shape[0]].reshape(weight.shape), strength)


def _from_triangles(triangles: Tensor) -> Tensor:
    """The skew matrices ``[n, b, b]`` whose upper *triangles* these are."""
    count, elements = triangles.shape
    size = (1 + math.isqrt(1 + 8 * elements)) // 2
    upper = triangles.new_zeros(count, size, size)
    row, column = torch.triu_indices(size, size, 1, device=triangles.device)
    upper[:, row, column] = triangles
    return upper - upper.transpose(-1, -2)


def _series(skew: Tensor, terms: int, *, halved: bool) -> Tensor:
    """The first *terms* of the series of Cayley's rotation."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    made = one.expand_as(skew).clone()
    highest = max(terms - 1, 3) if halved and terms > 2 else terms - 1
    power = one.expand_as(skew)
    for number in range(1, highest + 1):
        power = power @ skew
        made.add_(power, alpha=1.0 if halved and number == highest > 2 else 2.0)
    return made
