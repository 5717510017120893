"""Weights of eight bits with scales, which are computed once where their scales stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from modelhub.merge.base import Told
from modelhub.merge.compute import Computed
from modelhub.merge.quantising import Largest, Quantiser, grown
from modelhub.merge.scaled import Scaled


class Requantised:
    """A weight of eight bits; its scales grow where its new numbers are too large for them, which is known after."""

    def __init__(
        self,
        scaled: Scaled,
        computation: Callable[..., Computed],
        settled: Callable[[Tensor | None], None],
    ) -> None:
        """*settled* is told by which powers of two the scales grow, by block."""
        self._scaled = scaled
        self._computation = computation
        self._settled = settled
        self.told: Told | None = None

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
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
