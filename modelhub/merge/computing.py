"""What of a plan is computed, tensor by tensor: the weights that a maker makes anew, and scales beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import torch

from modelhub.convert import ConversionPlan, OutputFile, PlannedTensor
from modelhub.convert.execute import in_source_order
from modelhub.merge.base import Address, Precision, Told
from modelhub.merge.compute import Buffers, Computation, Computed, Maker, type_to_compute_in
from modelhub.merge.quantising import Largest, NewScales, Quantiser, Rescaling
from modelhub.merge.scaled import Scaled, ScaledSource

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
        device: torch.device,
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
        self._rescaling = Rescaling(self._weights)

    def parted(self, output: OutputFile) -> tuple[list[PlannedTensor], list[PlannedTensor]]:
        """The tensors of *output* that are copied, and those that are computed: as they lie in their sources, and
        scales when their weights have been."""
        copied: list[PlannedTensor] = []
        computed: list[PlannedTensor] = []
        scales: list[PlannedTensor] = []
        for each in in_source_order(output):
            address = Address(output.path, each.name)
            into = scales if address in self._rescaled else computed if address in self._changed else copied
            into.append(each)
        return copied, computed + scales

    def __call__(self, address: Address, planned: PlannedTensor, buffers: Buffers) -> Computed:
        """What computes *planned*, which lies at *address*."""
        if (weight := self._rescaled.get(address)) is not None:
            scaled = _scaled(self._weights[weight])
            return NewScales(scaled, self._rescaling.exponents(weight, scaled, partial(self._look, weight, buffers)))
        if address not in self._weights:
            return self._merged(address, planned, buffers)
        merged = partial(self._merged, address, planned, buffers)
        return _Requantised(self._rescaling, address, _scaled(planned), merged)

    def _look(self, weight: Address, buffers: Buffers, largest: Largest) -> None:
        self._merged(weight, self._weights[weight], buffers, largest=largest).look()

    def _merged(
        self,
        address: Address,
        planned: PlannedTensor,
        buffers: Buffers,
        *,
        quantiser: Quantiser | None = None,
        largest: Largest | None = None,
    ) -> Computation:
        dtype = type_to_compute_in(planned, self._precision)
        maker = self._maker_of(address, planned, dtype, buffers, self._device)
        return Computation(planned, maker, self._precision, buffers, self._device, quantiser=quantiser, largest=largest)


class _Requantised:
    """A weight of eight bits; its scales grow where its new numbers are too large for them, which is known after."""

    def __init__(
        self, rescaling: Rescaling, address: Address, scaled: Scaled, computation_of: Callable[..., Computation]
    ) -> None:
        self._rescaling = rescaling
        self._address = address
        self._scaled = scaled
        self._computation_of = computation_of
        self.told: Told | None = None

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Its blocks; from the first again where the scales had to grow."""
        for exponents, largest in self._rescaling.settling(self._address, self._scaled):
            computation = self._computation_of(quantiser=Quantiser(self._scaled, exponents), largest=largest)
            yield from computation.blocks()
            self.told = computation.told


def _scaled(planned: PlannedTensor) -> Scaled:
    (piece,) = planned.pieces
    assert isinstance(piece.source, ScaledSource)
    return piece.source.scaled
