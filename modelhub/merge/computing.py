"""What of a plan is computed, tensor by tensor: the weights that a maker makes anew, and scales beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from modelhub.convert import ConversionPlan, OutputFile, PlannedTensor
from modelhub.convert.execute import in_source_order
from modelhub.merge.base import Address, Precision
from modelhub.merge.scaled import Scaled, ScaledSource

if TYPE_CHECKING:
    import torch

    from modelhub.merge.compute import Buffers, Computed, Maker

    MakerOf = Callable[[Address, PlannedTensor, torch.dtype, Buffers, torch.device], Maker]
    """What makes the new numbers of a planned tensor, in a type and on a device."""


class Computations:
    """The tensors of *plan* at the addresses *changed*, as *maker_of* makes them; *rescaled* are scales, and whose."""

    def __init__(
        self,
        plan: ConversionPlan,
        changed: Collection[Address],
        rescaled: Mapping[Address, Address],
        *,
        maker_of: MakerOf,
        precision: Precision,
        device: str = "cpu",
    ) -> None:
        self._changed = changed
        self._rescaled = rescaled
        self._maker_of = maker_of
        self._precision = precision
        self._device = device
        self._weights = {
            Address(output.path, each.name): each
            for output in plan.outputs
            for each in output.tensors
            if Address(output.path, each.name) in set(rescaled.values())
        }
        self._exponents: dict[Address, torch.Tensor | None] = {}

    def parted(self, output: OutputFile) -> tuple[Sequence[PlannedTensor], Sequence[Sequence[PlannedTensor]]]:
        """The tensors of *output* that are copied, and those that are computed, all as they lie in their sources:
        first the weights, and when these are done the scales, which follow from them."""
        copied: list[PlannedTensor] = []
        weights: list[PlannedTensor] = []
        scales: list[PlannedTensor] = []
        for each in in_source_order(output):
            address = Address(output.path, each.name)
            into = scales if address in self._rescaled else weights if address in self._changed else copied
            into.append(each)
        return copied, (weights, scales)

    def __call__(self, address: Address, planned: PlannedTensor, buffers: Buffers) -> Computed:
        """What computes *planned*, which lies at *address*."""
        from modelhub.merge.compute import Computation, type_to_compute_in
        from modelhub.merge.devices import device_named
        from modelhub.merge.quantising import NewScales
        from modelhub.merge.requantising import Requantised

        if (weight := self._rescaled.get(address)) is not None:
            return NewScales(_scaled(self._weights[weight]), self._exponents[weight])
        dtype = type_to_compute_in(planned, self._precision)
        device = device_named(self._device)
        maker = self._maker_of(address, planned, dtype, buffers, device)
        computation = partial(Computation, planned, maker, self._precision, buffers, device)
        if address not in self._weights:
            return computation()
        return Requantised(_scaled(planned), computation, partial(self._exponents.__setitem__, address))


def _scaled(planned: PlannedTensor) -> Scaled:
    (piece,) = planned.pieces
    assert isinstance(piece.source, ScaledSource)
    return piece.source.scaled
