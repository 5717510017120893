"""What a pickle program would do, as the abstract machine saw it."""

from __future__ import annotations

from dataclasses import dataclass

from modelhub.anomalies import Anomaly
from modelhub.pickles.values import Call, Global, Persistent, Value


@dataclass(frozen=True, slots=True)
class Build:
    """A BUILD: ``target.__setstate__(state)`` or an update of its attributes, at ``offset``."""

    target: Value
    state: Value
    offset: int


@dataclass(frozen=True, slots=True)
class Mutation:
    """SETITEM(S), APPEND(S) or ADDITEMS on something that is not a dict, list or set made by this program."""

    target: Value
    opcode: str
    offset: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one pickle program; going over one is the anomaly ``pickle.limit``, never a hang.

    ``program``: bytes of opcodes and short literals; ``values``: containers, calls and references made, and opcodes
    that model files seldom use; ``memo``: memo entries, and the highest index; ``depth``: nested MARKs; ``literal``:
    bytes of one literal that are kept (a longer one becomes a :class:`~modelhub.pickles.values.Blob`); ``long``: bytes
    of one LONG1/LONG4 integer; ``anomalies``: how many are told before the rest of the program is given up.
    """

    program: int = 16 << 20
    values: int = 2_000_000
    memo: int = 2_000_000
    depth: int = 10_000
    literal: int = 1 << 16
    long: int = 1024
    anomalies: int = 100


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that one pickle program would import, call and load, and the value it describes.

    Offsets are absolute in the source that was traced. ``anomalies`` are the departures from the strict language
    (rule ids ``pickle.*``); ``complete`` is true when the program ran to its STOP and nothing in it was left
    uninterpreted. ``protocol`` is that of the PROTO opcode, 0 without one; ``result`` is only meaningful when
    ``stopped`` is true.
    """

    imports: tuple[Global, ...]
    calls: tuple[Call, ...]
    builds: tuple[Build, ...]
    mutations: tuple[Mutation, ...]
    persistent_ids: tuple[Persistent, ...]
    anomalies: tuple[Anomaly, ...]
    result: Value
    stopped: bool
    protocol: int
    start: int
    end: int

    @property
    def complete(self) -> bool:
        """Whether the whole program was understood."""
        return self.stopped and not self.anomalies
