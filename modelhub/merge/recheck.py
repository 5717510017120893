"""Computing some tensors of a merge once more: from the inputs, as a whole, in F64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modelhub.container.safetensors import read_safetensors
from modelhub.convert import Piece, inside
from modelhub.errors import VerificationFailed
from modelhub.merge.base import Address, MergePlan
from modelhub.merge.compute import updates_of
from modelhub.merge.reading import torch_type, whole
from modelhub.source import open_local

_ROUNDING = 1e-6
"""How far F32's own rounding may carry a result, relative to the largest weight and change of the tensor."""


def recheck(plan: MergePlan, path: str, count: int) -> Mapping[Address, float]:
    """For *count* tensors, spread over those that the merge changes, the largest error in the file or folder *path*, in
    units of the last place of the output's type, in the tensor's largest binade at least that of its smallest normal.

    Raises :class:`VerificationFailed` where one is larger than rounding explains.
    """
    planned = {
        Address(output.path, tensor.name): tensor for output in plan.conversion.outputs for tensor in output.tensors
    }
    addresses = sorted(plan.changes)
    chosen = addresses[:: max(1, len(addresses) // count)][:count]
    found: dict[Address, float] = {}
    for address in chosen:
        with open_local(inside(path, address.file)) as written:
            state_dict = read_safetensors(written).state_dict
            assert state_dict is not None
            made = whole(Piece(written, state_dict[address.tensor]), torch.float64)
        (piece,) = planned[address].pieces
        exact = whole(piece, torch.float64)
        before = exact.clone()
        flat = exact.reshape(exact.shape or (1,))
        for applied in updates_of(plan.changes[address], plan.adapters, torch.float64):
            applied.to(flat, 0)
        error = (made - exact).abs()
        unit = _last_place(exact, torch_type(planned[address].dtype))
        slack = _ROUNDING * float(before.abs().max() + (exact - before).abs().max())
        if plan.precision.exact:
            slack = 0.0
        allowed = unit * (0.5 if plan.precision.seed is None else 1.0) * (1 + 1e-9) + slack
        if bool((error > allowed).any()):
            worst = float(error.max())
            which = f"{plan.base}: tensor {address.tensor!r:.100}"
            raise VerificationFailed(f"{which} differs from its merge in float64 by {worst:.3g}")
        found[address] = float((error / unit).max())
    return found


def _last_place(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of the numbers of *dtype* around each of *values*."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.smallest_normal))
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)
