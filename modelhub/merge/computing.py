"""What of a plan is computed, tensor by tensor: the weights that a maker makes anew, and scales beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch

from modelhub.convert import ConversionPlan, PlannedTensor
from modelhub.merge.base import Address, Precision
from modelhub.merge.compute import Buffers, Computation, Computed, Maker, type_to_compute_in
from modelhub.merge.quantising import NewScales, Quantiser, Rescaling
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

    def computes(self, address: Address) -> bool:
        """Whether the tensor at *address* is computed; it is copied where not."""
        return address in self._rescaled or address in self._changed

    def __call__(self, address: Address, planned: PlannedTensor, buffers: Buffers) -> Computed:
        """What computes *planned*, which lies at *address*."""
        if (weight := self._rescaled.get(address)) is not None:
            scaled = _scaled(self._weights[weight])
            return NewScales(scaled, self._exponents(weight, scaled, buffers))
        quantiser = None
        if address in self._weights:
            scaled = _scaled(planned)
            quantiser = Quantiser(scaled, self._exponents(address, scaled, buffers))
        return self._merged(address, planned, buffers, quantiser)

    def _exponents(self, weight: Address, scaled: Scaled, buffers: Buffers) -> torch.Tensor | None:
        planned = self._weights[weight]
        return self._rescaling.exponents(
            weight, scaled, lambda: self._merged(weight, planned, buffers).largest(scaled.block)
        )

    def _merged(
        self, address: Address, planned: PlannedTensor, buffers: Buffers, quantiser: Quantiser | None = None
    ) -> Computation:
        dtype = type_to_compute_in(planned, self._precision)
        maker = self._maker_of(address, planned, dtype, buffers, self._device)
        return Computation(planned, maker, self._precision, buffers, self._device, quantiser=quantiser)


def _scaled(planned: PlannedTensor) -> Scaled:
    (piece,) = planned.pieces
    assert isinstance(piece.source, ScaledSource)
    return piece.source.scaled
