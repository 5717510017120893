"""What of a plan is computed, tensor by tensor: the weights that a maker makes anew, and scales beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import torch

from modelhub.convert import ConversionPlan, OutputFile, PlannedTensor
from modelhub.convert.execute import in_source_order
from modelhub.merge.base import Address, Precision, Told
from modelhub.merge.compute import Buffers, Computation, Computed, Maker, type_to_compute_in
from modelhub.merge.quantising import Largest, NewScales, Quantiser, grown
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
        if (weight := self._rescaled.get(address)) is not None:
            return NewScales(_scaled(self._weights[weight]), self._exponents[weight])
        dtype = type_to_compute_in(planned, self._precision)
        maker = self._maker_of(address, planned, dtype, buffers, self._device)
        computation = partial(Computation, planned, maker, self._precision, buffers, self._device)
        if address not in self._weights:
            return computation()
        return _Requantised(_scaled(planned), computation, partial(self._exponents.__setitem__, address))


class _Requantised:
    """A weight of eight bits; its scales grow where its new numbers are too large for them, which is known after."""

    def __init__(
        self,
        scaled: Scaled,
        computation: Callable[..., Computation],
        settled: Callable[[torch.Tensor | None], None],
    ) -> None:
        """*settled* is told by which powers of two the scales grow, by block."""
        self._scaled = scaled
        self._computation = computation
        self._settled = settled
        self.told: Told | None = None

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Its blocks; from the first again where the scales had to grow."""
        largest = Largest(self._scaled)
        computation = self._computation(quantiser=Quantiser(self._scaled, None), largest=largest)
        yield from computation.blocks()
        exponents = grown(self._scaled, largest.found)
        if exponents is not None:
            computation = self._computation(quantiser=Quantiser(self._scaled, exponents))
            yield from computation.blocks()
        self._settled(exponents)
        self.told = computation.told


def _scaled(planned: PlannedTensor) -> Scaled:
    (piece,) = planned.pieces
    assert isinstance(piece.source, ScaledSource)
    return piece.source.scaled
