"""The one rounding in the end: from the numbers that were computed to those of the output's type."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def rounded(values: Tensor, into: Tensor) -> Tensor:
    """*values*, F32 or F64, to the nearest number of *into*'s type, ties to even; written to *into*."""
    if values.dtype is torch.float64 and into.element_size() < 4:
        values = _to_odd(values)
    return into.copy_(values)


def rounded_stochastically(values: Tensor, into: Tensor, generator: torch.Generator) -> Tensor:
    """*values* to one of the two neighbours in *into*'s type, the nearer the likelier: on average nothing is lost."""
    nearest = rounded(values, into)
    if nearest.element_size() >= values.element_size():
        return nearest
    bits = nearest.view(_BITS[nearest.element_size()])
    wide = nearest.to(values.dtype)
    away = values.abs() > wide.abs()
    other = torch.where(away, bits + 1, bits - 1)
    # Beyond zero lies the smallest number of the sign that the value has.
    smallest = torch.where(values < 0, bits.new_tensor(torch.iinfo(bits.dtype).min + 1), 1)
    other = torch.where(wide == 0, smallest.to(bits.dtype), other)
    gap = (other.view(into.dtype).to(values.dtype) - wide).abs()
    chance = (values - wide).abs() / gap
    drawn = torch.rand(values.shape, generator=generator, dtype=values.dtype).to(values.device)
    bits.copy_(torch.where((drawn < chance) & (values != wide), other, bits))
    return into


def _to_odd(values: Tensor) -> Tensor:
    """F64 as F32 rounded to odd, so that rounding the result once more to a narrower type is rounding once.

    Boldo, Melquiond, "When double rounding is odd" (2005).
    """
    narrow = values.to(torch.float32)
    back = narrow.to(torch.float64)
    inexact = back != values
    bits = narrow.view(torch.int32)
    bits -= (inexact & (back.abs() > values.abs())).to(torch.int32)
    bits |= inexact.to(torch.int32)
    return narrow
