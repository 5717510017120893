"""What a pickle program would do, as the abstract machine saw it."""

from __future__ import annotations

from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.pickles.values import Call, Global, Persistent, Value


class Build(NamedTuple):
    """A BUILD: ``target.__setstate__(state)`` or an update of its attributes, at ``offset``."""

    target: Value
    state: Value
    offset: int


class Mutation(NamedTuple):
    """SETITEM(S), APPEND(S) or ADDITEMS on something that is not a dict, list or set made by this program."""

    target: Value
    opcode: str
    offset: int


class Limits(NamedTuple):
    """Budgets of one pickle program. Going over one is an anomaly, never a hang.

    It is ``pickle.limit`` for what a long program of plain data may be: ``program``: bytes of opcodes and short
    literals; ``values``: containers, calls and references made, and opcodes that model files seldom use; ``memo``: memo
    entries. It is ``pickle.exhausting`` for what no pickler writes: a memo index above ``memo``; ``depth``: nested
    MARKs; ``long``: bytes of one LONG1/LONG4 integer; ``anomalies``: how many are told before the rest of the program
    is given up.

    ``literal``: bytes of one literal that are kept (a longer one becomes a :class:`~modelhub.pickles.values.Blob`);
    ``text``: bytes of longer ones that are written as text, which have to be kept to be read (``pickle.limit``);
    ``kept``: bytes of opcodes after which plain values in dicts and lists become
    :class:`~modelhub.pickles.values.Plain`, so that memory stays flat. A state dict of 2,500 tensors takes 400 kB.
    """

    program: int = 32 << 20
    kept: int = 2 << 20
    values: int = 1_000_000
    memo: int = 1_000_000
    depth: int = 10_000
    literal: int = 1 << 16
    text: int = 8 << 20
    long: int = 1024
    anomalies: int = 100


class Trace(NamedTuple):
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
