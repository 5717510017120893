"""The updates that adapters' modules make of one tensor of the base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelhub.errors import MergeError
from modelhub.merge.adapters import Update, make_update
from modelhub.merge.base import Change, PlannedAdapter
from modelhub.merge.compute import all_finite
from modelhub.merge.reading import whole


@dataclass(frozen=True, slots=True)
class Applied:
    """A change, the update that carries it out, and the adapter and module that it is, for people."""

    change: Change
    update: Update
    which: str

    def to(self, weight: Tensor, first: int) -> None:
        """Change the rows of the base's tensor that *weight* is, from row *first* on, those of them that it is for.

        Raises :class:`MergeError` where the tensors of the module turn out not to fit each other.
        """
        try:
            self._to(weight, first)
        except (MergeError, RuntimeError) as error:  # torch's word for shapes that do not go together
            raise MergeError(f"{self.which}: {str(error).splitlines()[0]:.200}") from error

    def _to(self, weight: Tensor, first: int) -> None:
        begin, end = self.change.rows
        low, high = max(first, begin), min(first + weight.shape[0], end)
        if low >= high:
            return
        rows = weight[low - first : high - first]
        if self.change.transposed:
            seen = rows.t().contiguous()
            rows.copy_(self.update.apply(seen, 0, self.change.strength).t())
            return
        seen = rows.reshape(high - low, *self.change.shape[1:])
        merged = self.update.apply(seen, self.change.first + low - begin, self.change.strength)
        if merged.data_ptr() != rows.data_ptr():
            rows.copy_(merged.reshape(rows.shape))


class Applying:
    """All updates of one tensor, one after the other; a :class:`~modelhub.merge.compute.Maker`."""

    def __init__(
        self,
        changes: Sequence[Change],
        adapters: Sequence[PlannedAdapter],
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        """The updates that *changes* are, to be computed in *dtype*; raises :class:`MergeError` naming the module."""
        self._updates = [_applied(change, adapters, dtype, device or torch.device("cpu")) for change in changes]
        self.whole = any(not each.update.by_rows or each.change.transposed for each in self._updates)
        self.runs = _joined(change.rows for change in changes)

    def make(self, weight: Tensor, first: int) -> None:
        """Merge into *weight*, the base's rows from *first* on."""
        for applied in self._updates:
            applied.to(weight, first)


def _joined(rows: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """*rows* in their order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(rows):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _applied(change: Change, adapters: Sequence[PlannedAdapter], dtype: torch.dtype, device: torch.device) -> Applied:
    module = change.module
    which = f"{adapters[change.adapter].use.path}: {module.name}"
    tensors = {role: whole(piece, dtype) for role, piece in module.tensors.items()}
    if not all(map(all_finite, tensors.values())):
        raise MergeError(f"{which}: it has values that are not finite")
    tensors = {role: tensor.to(device) for role, tensor in tensors.items()}
    scale = whole(module.magnitudes, dtype).to(device) if module.magnitudes is not None else None
    try:
        update = make_update(
            module.algorithm,
            tensors,
            module.alpha,
            change.shape,
            scale,
            peft=module.peft,
            settings=module.settings,
        )
    except MergeError as error:
        raise MergeError(f"{which}: {error}") from error
    if not (update.by_rows or change.transposed) and change.rows[1] - change.rows[0] != change.shape[0]:
        raise MergeError(f"{which}: it needs the whole weight, which lies in several tensors of the base")
    return Applied(change, update, which)
