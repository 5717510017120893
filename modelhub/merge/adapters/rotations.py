"""Rotations from skew matrices, as OFT and its relatives make them."""

from __future__ import annotations

import torch
from torch import Tensor


def cayley(skew: Tensor) -> Tensor:
    """``(I - skew)(I + skew)^-1``, for each of the matrices *skew* ``[..., b, b]``."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    turned: Tensor = torch.linalg.solve(one + skew, one - skew, left=False)
    return turned


def half_skew(blocks: Tensor) -> Tensor:
    """``(B - B^T) / 2``: the skew part of each of *blocks*."""
    return (blocks - blocks.transpose(-1, -2)) / 2


def no_longer(blocks: Tensor, longest: float | None) -> Tensor:
    """Each of *blocks* ``[n, b, b]`` with a Frobenius norm of at most ``longest / sqrt(n)``, where there is a limit."""
    if longest is None:
        return blocks
    lengths = torch.linalg.matrix_norm(blocks, keepdim=True)
    limit = longest / blocks.shape[0] ** 0.5
    return torch.where(lengths <= limit, blocks, blocks * (limit / lengths))
