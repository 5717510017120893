"""From the trace of a state dict to its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelhub.anomalies import Anomaly
from modelhub.pickles.trace import Trace
from modelhub.tensors import DType, StateDict, StorageRef


@dataclass(frozen=True, slots=True)
class StorageDeclaration:
    """A torch storage that a persistent id asks for.

    ``dtype`` is its element type, ``None`` when untyped (``numel`` is then in bytes); ``view`` is the legacy format's
    ``(view key, offset in elements, elements)`` when the persistent id asks for a part of storage ``key``; ``offset``
    is where in the pickle the id was asked for.
    """

    key: str
    dtype: DType | None
    numel: int
    location: str
    offset: int
    view: tuple[str, int, int] | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * (self.dtype.itemsize if self.dtype else 1)


@dataclass(frozen=True, slots=True)
class TensorReading:
    """A state dict as a trace describes it, and what is wrong with the tensors in it."""

    state_dict: StateDict | None
    anomalies: tuple[Anomaly, ...] = ()


def storage_declarations(trace: Trace) -> tuple[StorageDeclaration, ...]:
    """The storages that *trace* asks its loader for, each key once, in the order first asked for."""
    raise NotImplementedError


def read_state_dict(trace: Trace, storages: Mapping[str, StorageRef]) -> TensorReading:
    """The tensors of *trace*'s result, bounds-checked against *storages* (by storage key)."""
    raise NotImplementedError
