"""The state of the abstract pickle machine, and what it makes instead of doing what a program says.

It keeps the real stack, marks and memo, but imports become :class:`Global` values, calls become :class:`Call` values,
persistent ids become :class:`Persistent` values. What each opcode does to it stands in :mod:`modelhub.pickles.run`
(the opcodes that torch's state dicts are made of) and :mod:`modelhub.pickles.rare` (all others).
"""

from __future__ import annotations

import re

from modelhub.anomalies import Anomaly
from modelhub.pickles.trace import Build, Limits, Mutation, Trace
from modelhub.pickles.values import PLAIN, Call, CallOpcode, Dict, Global, Persistent, SetOf, Value
from modelhub.pickles.window import Window, fail
from modelhub.source import Source

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_PLAIN_TYPES = frozenset({bool, int, float, str, bytes, type(None)})
_PLAIN_PAIR = (PLAIN, PLAIN)
_PLAIN_PAIRS = (_PLAIN_PAIR,)

_SHORT_LIST = 16
"""Items of a list that is kept in any case: a pair, a shape, what else has a meaning by its length."""

UNSET = object()
"""What stands in the memo where nothing was put yet."""


class Machine:
    """The state of one run.

    ``stack`` is the topmost part of the stack, ``marks`` the parts below it, each cut off by a MARK. ``memo`` has
    :data:`UNSET` where a program left out an index; ``holes`` counts those. ``at`` is the absolute offset of the opcode
    at hand, in the end that of what follows STOP. ``frugal`` is true once the program has used up ``limits.kept``:
    plain values that are put into dicts and lists are then understood, but not kept. ``texts`` counts the bytes of
    long strings that were written as text.
    """

    __slots__ = (
        "anomalies",
        "at",
        "builds",
        "calls",
        "frugal",
        "holes",
        "imports",
        "limits",
        "made",
        "marks",
        "memo",
        "mutations",
        "persistent",
        "protocol",
        "stack",
        "start",
        "texts",
        "window",
    )

    def __init__(self, source: Source, start: int, end: int, limits: Limits) -> None:
        self.start = start
        self.at = start
        self.limits = limits
        self.imports: list[Global] = []
        self.calls: list[Call] = []
        self.builds: list[Build] = []
        self.mutations: list[Mutation] = []
        self.persistent: list[Persistent] = []
        self.anomalies: list[Anomaly] = []
        self.protocol = 0
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: list[Value] = []
        self.holes = 0
        self.made = 0
        self.texts = 0
        self.frugal = False
        self.window = Window(source, start, end, self._heed_budgets)

    def trace(self, result: Value, stopped: bool) -> Trace:
        """What the program would do, as far as it was followed."""
        return Trace(
            imports=tuple(self.imports),
            calls=tuple(self.calls),
            builds=tuple(self.builds),
            mutations=tuple(self.mutations),
            persistent_ids=tuple(self.persistent),
            anomalies=tuple(self.anomalies),
            result=result,
            stopped=stopped,
            protocol=self.protocol,
            start=self.start,
            end=self.at,
        )

    def note(self, rule: str, message: str, at: int, evidence: str | None = None) -> None:
        """State an anomaly and go on."""
        self.anomalies.append(Anomaly(rule, message, None, at, evidence))
        if len(self.anomalies) >= self.limits.anomalies:
            fail("pickle.exhausting", "too much is wrong with this pickle to go on", at)

    def _heed_budgets(self, used: int, at: int) -> None:
        limits = self.limits
        if used > limits.program:
            fail("pickle.limit", f"the pickle is longer than {limits.program} bytes of opcodes", at)
        if max(self.made, len(self.stack)) > limits.values:
            fail("pickle.limit", f"the pickle makes more than {limits.values} objects", at)
        if len(self.memo) > limits.memo:
            fail("pickle.limit", f"the pickle memoises more than {limits.memo} objects", at)
        self.frugal = used > limits.kept

    # -- the memo

    def put(self, index: int, value: Value, at: int) -> None:
        """Set memo entry *index*."""
        memo = self.memo
        if index > self.limits.memo:
            fail("pickle.exhausting", f"memo index {index} is too large", at)
        if index < len(memo):
            self.holes -= memo[index] is UNSET
            memo[index] = value
        else:
            self.holes += index - len(memo)
            memo.extend([UNSET] * (index - len(memo)))
            memo.append(value)

    def get(self, index: int, at: int) -> Value:
        """Memo entry *index*."""
        if index >= len(self.memo) or self.memo[index] is UNSET:
            fail("pickle.memo", f"memo entry {index} is read before it is set", at)
        return self.memo[index]

    # -- imports and calls

    def imported(self, module: Value, name: Value, at: int, opcode: str) -> Global:
        """What an import of *name* from *module* would give."""
        self.made += 1
        if not isinstance(module, str) or not isinstance(name, str):
            told = [v if isinstance(v, str) else "?" for v in (module, name)]
            self.note("pickle.computed-name", "the name of an import is computed, not written", at)
            made = Global(told[0], told[1], at, opcode, literal=False)
        else:
            made = Global(module, name, at, opcode)
            if _MODULE.fullmatch(module) is None or _IDENTIFIER.fullmatch(name) is None:
                if _MODULE.fullmatch(module) and _MODULE.fullmatch(name):
                    message = "an import's name has dots: it reaches into what it imports"
                    self.note("pickle.dotted-name", message, at, f"{module} {name}")
                else:
                    message = "an import's name is not a plain identifier"
                    self.note("pickle.odd-name", message, at, ascii(f"{module} {name}")[:200])
        self.imports.append(made)
        return made

    def called(self, callee: Value, args: Value, kwargs: Value, at: int, opcode: CallOpcode) -> Call:
        """What a call would give."""
        self.made += 1
        made = Call(callee, args, kwargs, at, opcode)
        self.calls.append(made)
        return made

    def asked_for(self, pid: Value, at: int, *, text: bool = False) -> Persistent:
        """What the loader would give for the persistent id *pid*."""
        self.made += 1
        made = Persistent(pid, at, text)
        self.persistent.append(made)
        return made

    # -- what is put into containers

    def set_items(self, target: Value, items: list[Value], at: int, opcode: str) -> None:
        """Set *items*, keys and values in turn, on *target*."""
        if len(items) % 2:
            fail("pickle.stack", "a dict's items do not come in pairs", at)
        # Python's pickler ends a dict whose size is a multiple of its batches with one of no items.
        if type(target) is Dict and self.frugal and items and _PLAIN_TYPES.issuperset(map(type, items)):
            if not target.pairs:
                target.pairs = _PLAIN_PAIRS
            elif target.pairs[-1] is not _PLAIN_PAIR:
                target.pairs = [*target.pairs, _PLAIN_PAIR]
        elif type(target) is Dict or type(target) is Call:
            pairs = zip(items[::2], items[1::2], strict=True)
            if type(target.pairs) is list:
                target.pairs.extend(pairs)
            else:
                target.pairs = [*target.pairs, *pairs]
        else:
            self.made += 1
            self.mutations.append(Mutation(target, opcode, at))

    def add_items(self, target: Value, items: list[Value], at: int, opcode: str) -> None:
        """Add *items* to *target*."""
        if type(target) is list and opcode != "ADDITEMS":
            long = self.frugal and len(target) + len(items) > _SHORT_LIST
            if not (long and _PLAIN_TYPES.issuperset(map(type, items))):
                target.extend(items)
            elif items and (not target or target[-1] is not PLAIN):
                target.append(PLAIN)
        elif type(target) is SetOf and opcode == "ADDITEMS" and not target.frozen:
            target.items.extend(items)
        elif type(target) is not Call or not items:  # Python's unpickler calls extend() for no items too
            self.made += 1
            self.mutations.append(Mutation(target, opcode, at))
        elif isinstance(target.items, list):
            target.items.extend(items)
        else:
            target.items = items

    def build(self, target: Value, state: Value, at: int) -> None:
        """Give *target* its *state*."""
        self.made += 1
        self.builds.append(Build(target, state, at))
        if type(target) is Call:
            target.states = (*target.states, state)
            if len(target.states) > 16:
                fail("pickle.exhausting", "one object is given its state over and over", at)
