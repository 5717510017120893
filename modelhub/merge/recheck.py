"""Computing some tensors of a merge once more: from the inputs, in F64, in other blocks than they were written in."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modelhub.container.safetensors import read_safetensors
from modelhub.convert import ConversionPlan, Piece, PlannedTensor, inside
from modelhub.errors import VerificationFailed
from modelhub.merge.base import Address, Precision
from modelhub.merge.compute import CPU, Buffers, Maker
from modelhub.merge.quantising import Quantiser
from modelhub.merge.reading import Rows, torch_type
from modelhub.merge.scaled import Scaled, ScaledSource, numbers_of
from modelhub.source import open_local
from modelhub.tensors import TensorInfo

if TYPE_CHECKING:
    from modelhub.merge.computing import MakerOf

_ROUNDING = 1e-6
"""How far F32's own rounding may carry a result, relative to the largest weight and change of the tensor."""

_NOTHING: Mapping[Address, Address] = MappingProxyType({})

_BLOCK = 3 << 18
"""Elements of a block."""


def recheck(
    plan: ConversionPlan,
    path: str,
    addresses: Iterable[Address],
    *,
    count: int,
    maker_of: MakerOf,
    precision: Precision,
    rescaled: Mapping[Address, Address] = _NOTHING,
) -> Mapping[Address, float]:
    """For *count* tensors, spread over the bytes of those at *addresses*, the largest error in the file or folder
    *path*, in units of the last place of each number in the output's type. Where these are finer than F32 computes
    with numbers as large as the tensor's, as of a BF16 near 0 that two large ones leave, what F32 may err is the unit.

    *maker_of* gives what makes a tensor; *rescaled* are scales, and whose. Raises :class:`VerificationFailed` where an
    error is larger than rounding explains.
    """
    planned = {Address(output.path, tensor.name): tensor for output in plan.outputs for tensor in output.tensors}
    ordered = sorted(addresses)
    chosen = [ordered[index] for index in _spread([planned[each].nbytes for each in ordered], count)]
    scales = {weight: scale for scale, weight in rescaled.items()}
    found: dict[Address, float] = {}
    for address in chosen:
        with open_local(inside(path, address.file)) as written:
            state_dict = read_safetensors(written).state_dict
            assert state_dict is not None
            made = Piece(written, state_dict[address.tensor])
            if address in scales:
                made = _with_scales(planned[address], made, state_dict[scales[address].tensor])
            maker = maker_of(address, planned[address], torch.float64, Buffers(), CPU)
            which = f"{plan.source}: tensor {address.tensor!r:.100}"
            found[address] = _largest_error(made, planned[address], maker, precision, which)
    return found


def _spread(sizes: Sequence[int], count: int) -> list[int]:
    """The indices of *count* of *sizes*, or of all, one for each of as many equal shares of their sum: the large ones
    are likelier, and of none is said more than once."""
    ends = list(accumulate(max(1, size) for size in sizes))
    left = list(range(len(sizes)))
    chosen: list[int] = []
    for share in range(min(count, len(sizes))):
        middle = (share + 0.5) / count * ends[-1]
        chosen.append(left.pop(min(bisect_left(left, bisect_left(ends, middle)), len(left) - 1)))
    return sorted(chosen)


def _with_scales(planned: PlannedTensor, codes: Piece, scales: TensorInfo) -> Piece:
    """The numbers of the written *codes*, by their written *scales*."""
    (before,) = planned.pieces
    assert isinstance(before.source, ScaledSource)
    return numbers_of(planned.name, Scaled(codes, Piece(codes.source, scales), before.source.scaled.block))


def _largest_error(made: Piece, planned: PlannedTensor, maker: Maker, precision: Precision, which: str) -> float:
    (piece,) = planned.pieces
    shape = planned.shape or (1,)
    columns = math.prod(shape[1:])
    old, new = Rows(piece), Rows(made)
    scaled = made.source.scaled if isinstance(made.source, ScaledSource) else None
    step = shape[0] if maker.whole else max(1, _BLOCK // max(1, columns))
    rounding = 0.0 if precision.exact and scaled is None else 2 * _ROUNDING
    size, worst, largest = 0.0, 0.0, 0.0
    excess = -math.inf
    for first in range(0, shape[0] if columns else 0, step):
        rows = (min(step, shape[0] - first), *shape[1:])
        exact = _read(old, first * columns, rows, torch_type(piece.tensor.dtype))
        before = exact.clone()
        maker.make(exact, first)
        found = _read(new, first * columns, rows, torch_type(made.tensor.dtype))
        size = max(size, float(before.abs().max()), float(before.sub_(exact).abs().max()))
        unit = _units(exact, torch_type(planned.dtype), scaled, first)
        error = found.sub_(exact).abs_()
        largest = max(largest, float(error.max()))
        excess = max(excess, float((error - unit * _half_or_one(precision)).max()))
        worst = max(worst, float(error.div_(unit.clamp_(min=size * rounding)).max()))
    if excess > size * rounding:
        raise VerificationFailed(f"{which} differs from its merge in float64 by {largest:.3g}")
    return worst


def _units(values: Tensor, dtype: torch.dtype, scaled: Scaled | None, first: int) -> Tensor:
    """The distance of the output's numbers around each of *values*, those from row *first* on."""
    if scaled is None:
        return _last_place(values, dtype)
    quantiser = Quantiser(scaled, None)
    units = _last_place(quantiser.divided(values.clone(), first), dtype)
    return quantiser.multiplied(units, first).abs_()


def _half_or_one(precision: Precision) -> float:
    return (0.5 if precision.seed is None else 1.0) * (1 + 1e-9)


def _read(rows: Rows, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    stored = torch.empty(shape, dtype=dtype)
    rows.read(start, stored)
    return stored.to(torch.float64)


def _last_place(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of the numbers of *dtype* around each of *values*."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.smallest_normal))
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)
