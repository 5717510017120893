"""Computing some tensors of a merge once more: from the inputs, in F64, in other blocks than they were written in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from modelhub.container.safetensors import read_safetensors
from modelhub.convert import ConversionPlan, Piece, PlannedTensor, inside
from modelhub.errors import VerificationFailed
from modelhub.merge.base import Address, Precision
from modelhub.merge.compute import Maker
from modelhub.merge.reading import Rows, torch_type
from modelhub.source import open_local

_ROUNDING = 1e-6
"""How far F32's own rounding may carry a result, relative to the largest weight and change of the tensor."""

_BLOCK = 3 << 18
"""Elements of a block."""


def recheck(
    plan: ConversionPlan,
    path: str,
    addresses: Iterable[Address],
    *,
    count: int,
    maker_of: Callable[[Address, PlannedTensor], Maker],
    precision: Precision,
) -> Mapping[Address, float]:
    """For *count* tensors, spread over *addresses*, the largest error in the file or folder *path*, in units of the
    last place of the output's type, in the tensor's largest binade at least that of its smallest normal.

    *maker_of* gives what makes a tensor in F64. Raises :class:`VerificationFailed` where an error is larger than
    rounding explains.
    """
    planned = {Address(output.path, tensor.name): tensor for output in plan.outputs for tensor in output.tensors}
    ordered = sorted(addresses)
    chosen = ordered[:: max(1, len(ordered) // count)][:count]
    found: dict[Address, float] = {}
    for address in chosen:
        with open_local(inside(path, address.file)) as written:
            state_dict = read_safetensors(written).state_dict
            assert state_dict is not None
            made = Piece(written, state_dict[address.tensor])
            maker = maker_of(address, planned[address])
            which = f"{plan.source}: tensor {address.tensor!r:.100}"
            found[address] = _largest_error(made, planned[address], maker, precision, which)
    return found


def _largest_error(made: Piece, planned: PlannedTensor, maker: Maker, precision: Precision, which: str) -> float:
    (piece,) = planned.pieces
    shape = planned.shape or (1,)
    columns = math.prod(shape[1:])
    old, new = Rows(piece), Rows(made)
    step = shape[0] if maker.whole else max(1, _BLOCK // max(1, columns))
    size, worst, largest = 0.0, 0.0, 0.0
    excess = -math.inf
    for first in range(0, shape[0], step):
        rows = (min(step, shape[0] - first), *shape[1:])
        exact = _read(old, first * columns, rows, torch_type(piece.tensor.dtype))
        before = exact.clone()
        maker.make(exact, first)
        found = _read(new, first * columns, rows, torch_type(planned.dtype))
        size = max(size, float(before.abs().max()), float(before.sub_(exact).abs().max()))
        unit = _last_place(exact, torch_type(planned.dtype))
        error = found.sub_(exact).abs_()
        largest = max(largest, float(error.max()))
        excess = max(excess, float((error - unit * _half_or_one(precision)).max()))
        worst = max(worst, float(error.div_(unit).max()))
    if excess > (0.0 if precision.exact else 2 * _ROUNDING * size):
        raise VerificationFailed(f"{which} differs from its merge in float64 by {largest:.3g}")
    return worst


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
