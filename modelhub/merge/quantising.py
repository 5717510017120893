"""From numbers to codes of eight bits and back, by scales that a merge keeps as they are where it can.

A scale stays what it is while the largest new number is within half a unit of the last place of the largest code (448
in E4M3, 57344 in E5M2; beyond the code it becomes it), so that a weight that is not changed keeps its code. Where a
number is larger, the scale is doubled until it is not: then the other codes are the same numbers one exponent lower,
all but the smallest of them. A new scale from the largest number, which ComfyUI computes (``comfy/quant_ops.py``,
``recalculate``), rounds every number of the tensor again, which adds an error as large as that of quantising.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.reading import scales_of, torch_type
from modelhub.merge.scaled import Scaled


class Quantiser:
    """The scales of *scaled* times two to the power of *exponents*, by block."""

    def __init__(self, scaled: Scaled, exponents: Tensor | None) -> None:
        self._scaled = scaled
        self._exponents = exponents
        self._largest = torch.finfo(torch_type(scaled.codes.tensor.dtype)).max

    def divided(self, numbers: Tensor, first: int) -> Tensor:
        """*numbers*, those from row *first* on, made what is to be rounded to codes."""
        self._in_blocks(numbers).div_(self._scales(numbers, first))
        return numbers.clamp_(-self._largest, self._largest)

    def multiplied(self, codes: Tensor, first: int) -> Tensor:
        """*codes*, those from row *first* on, made numbers."""
        self._in_blocks(codes).mul_(self._scales(codes, first))
        return codes

    def _in_blocks(self, rows: Tensor) -> Tensor:
        return rows.view(rows.shape[0], -1, self._scaled.block[1])

    def _scales(self, rows: Tensor, first: int) -> Tensor:
        """The scale of each block of columns of each row."""
        height, last = self._scaled.block[0], first + rows.shape[0]
        scales = torch.from_numpy(scales_of(self._scaled, first, last))
        if self._exponents is not None:
            scales = torch.ldexp(scales, self._exponents[first // height : -(-last // height)])
        at = torch.arange(first, last) // height - first // height
        return scales[at][:, :, None].to(rows.device)


class NewScales:
    """The bytes of a scale; a :class:`~modelhub.merge.compute.Computed`."""

    told = None

    def __init__(self, scaled: Scaled, exponents: Tensor | None) -> None:
        self._scaled = scaled
        self._exponents = exponents

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All of it."""
        assert self._scaled.scales is not None
        scales = torch.from_numpy(scales_of(self._scaled, 0, self._scaled.rows))
        if self._exponents is not None:
            scales = torch.ldexp(scales, self._exponents)
        made = scales.to(torch_type(self._scaled.scales.tensor.dtype))
        if not bool(made.isfinite().all()):
            raise MergeError(f"{_which(self._scaled)}: its scale would be out of range")
        yield 0, made.contiguous()


class Largest:
    """The largest size of a number in each block of the weight that *scaled* is, ``found``: ``[row blocks, column
    blocks]``, F64."""

    def __init__(self, scaled: Scaled) -> None:
        self._height, self._width = scaled.block
        self.found = torch.zeros(scaled.grid, dtype=torch.float64)

    def see(self, rows: Tensor, first: int) -> None:
        """Look at *rows*, those from row *first* on."""
        count, height = rows.shape[0], self._height
        blocks = rows.reshape(count, -1, self._width)
        sizes = torch.maximum(blocks.amin(2).neg_(), blocks.amax(2)).cpu().to(torch.float64)
        if height == 1:
            self.found[first : first + count] = sizes
            return
        for row in range(first // height, -(-(first + count) // height)):
            begin, end = max(row * height - first, 0), min((row + 1) * height - first, count)
            torch.maximum(self.found[row], sizes[begin:end].amax(0), out=self.found[row])


def grown(scaled: Scaled, largest: Tensor) -> Tensor | None:
    """How often the scales of *scaled* are doubled so that numbers of the size *largest* have codes, by block.

    ``None``: none is. Raises :class:`MergeError` for a scale of 0.
    """
    scales = torch.from_numpy(scales_of(scaled, 0, scaled.rows)).abs().to(torch.float64)
    if bool(((scales == 0) & (largest > 0)).any()):
        raise MergeError(f"{_which(scaled)}: its scale is 0", hint="--dtype fp16 or bf16 needs no scale")
    info = torch.finfo(torch_type(scaled.codes.tensor.dtype))
    reach = info.max * (1 + info.eps / 2 / _leading(info.max))
    fraction, exponent = torch.frexp(largest.to(torch.float64) / (scales.clamp(min=1e-300) * reach))
    doublings = (exponent - (fraction == 0.5).to(exponent.dtype)).clamp(min=0)
    return doublings.to(torch.int16) if bool(doublings.any()) else None


def _leading(value: float) -> float:
    """*value*'s fraction, from 1 to 2."""
    return 2 * math.frexp(value)[0]


def _which(scaled: Scaled) -> str:
    piece = scaled.codes
    return f"{piece.source.name}: tensor {piece.tensor.name!r:.100}"
