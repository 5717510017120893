"""The words conversion answers in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelhub.tensors import Leftover, TensorInfo


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output: its name there, where its bytes come from, and where they will lie.

    ``begin`` and ``end`` are offsets into the output's data section.
    """

    name: str
    source: TensorInfo
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything that a conversion will do, decided before a byte is written.

    ``source`` is the source's name; ``header`` the output's first bytes (length and JSON); ``tensors`` are in output
    order; ``duplicated`` the groups of names that share bytes in the source and get their own in the output, and
    ``duplicated_bytes`` what that costs; ``leftovers`` is what is not a tensor and is not kept.
    """

    source: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    metadata: Mapping[str, str]
    leftovers: tuple[Leftover, ...]
    duplicated: tuple[tuple[str, ...], ...]
    duplicated_bytes: int

    @property
    def size(self) -> int:
        """Bytes of the output file."""
        return len(self.header) + (self.tensors[-1].end if self.tensors else 0)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion that was carried out and verified: every tensor's bytes were compared with the source."""

    plan: ConversionPlan
    target: str
    size: int
    seconds: float
