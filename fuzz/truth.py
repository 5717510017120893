"""What must hold between what CPython's unpicklers did with a file and what modelhub said of it.

1. ``recorded``: every import and call that an unpickler came to stands in the traces; where a trace has no anomaly, in
   the same order, and the unpickler read exactly its bytes.
2. ``safe``: of a file judged SAFE, nothing but allowed names was imported, nothing was called that the traces do not
   call, no state or item reached what may not have one, and the interpreter audited no event.
3. ``finished``: a program that an unpickler finished was followed to its STOP.
4. ``values``: where a trace is complete, its result is the value that was unpickled; so are the scalars beside tensors.
5. ``verdict``: a file that called a denied name is at least suspicious.
6. ``alarm``: a file with nothing but what legitimate files hold is SAFE.

Where CPython's own unpicklers disagree with each other the machine may disagree with one of them; it then states one of
:data:`DIVERGENT`, and such a file is never SAFE, which (2) includes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fuzz.canonical import Collection, Imported, Loaded, Mapping, Object, canonical
from fuzz.programs import Case
from modelhub.container import Container, open_container
from modelhub.pickles import Blob, Call, Dict, Global, Persistent, SetOf, Trace, trace_pickle
from modelhub.scan import Policy, ScanReport, Verdict, load_policy, scan
from modelhub.source import BytesSource

DIVERGENT = frozenset({"pickle.exhausting", "pickle.frame", "pickle.limit", "pickle.text"})
"""Anomalies after which the machine may have read something else than an unpickler, because unpicklers differ there."""

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_Named = tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold; ``what`` says how."""

    property: str
    what: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What modelhub says of a case: the traces of its stream, program by program, and of the file."""

    traces: tuple[Trace, ...]
    container: Container
    report: ScanReport

    @property
    def anomalies(self) -> set[str]:
        """Rules of the traces' anomalies."""
        return {odd.rule for trace in self.traces for odd in trace.anomalies}

    @property
    def complete(self) -> bool:
        return all(trace.complete for trace in self.traces)


def judge(case: Case) -> Judgement:
    """Trace and scan *case*."""
    container = open_container(BytesSource("case.pt", case.file))
    stream = BytesSource("stream", case.stream)
    traces: list[Trace] = []
    position = 0
    for _ in range(case.loads):
        traces.append(trace_pickle(stream, position))
        position = traces[-1].end
        if not traces[-1].stopped:
            break
    return Judgement(tuple(traces), container, scan(container))


def request(case: Case) -> dict[str, Any]:
    """*case* as the sandbox wants it."""
    return {
        "data": case.stream.decode("latin-1"),
        "loads": case.loads,
        "encoding": case.encoding,
        "buffers": case.buffers,
        "buffered": case.buffered,
    }


def violations(case: Case, judgement: Judgement, seen: dict[str, Any]) -> Iterator[Violation]:
    """Every property that does not hold for *case*, given what the sandbox has *seen*."""
    safe = judgement.report.verdict is Verdict.SAFE
    if case.profile == "known" and not safe:
        yield Violation("alarm", "; ".join(f"{each.rule}: {each.message}" for each in judgement.report.findings[:3]))
    if "failed" in seen:
        if safe:
            yield Violation("safe", f"the unpickler did not come back: {seen['failed']}")
        return
    for how in ("real", "python", "inert"):
        yield from _recorded(judgement, seen[how], how)
        yield from _finished(judgement, seen[how], how)
    if judgement.complete and case.encoding == "ASCII" and not any(trace.mutations for trace in judgement.traces):
        yield from _values(judgement, seen["inert"])
        yield from _scalars(judgement)
    effects = [effect for how in ("real", "python") for effect in seen[how]["effects"]]
    effects += [["changed", name] for name in seen.get("changed", ())]
    policy = load_policy()
    if safe:
        yield from _safe(judgement, effects, policy)
    elif judgement.report.verdict < Verdict.SUSPICIOUS:
        for effect in effects:
            if effect[0] == "call" and not policy.allows(*_modern(effect)) and policy.denies(*_modern(effect)):
                yield Violation("verdict", f"{effect} in a file judged {judgement.report.verdict.label}")


def _recorded(judgement: Judgement, seen: dict[str, Any], how: str) -> Iterator[Violation]:
    if judgement.anomalies & DIVERGENT:
        return
    imports = [(each[1], each[2]) for each in seen["effects"] if each[0] == "import"]
    traced = [each for trace in judgement.traces for each in trace.imports]
    known = [(each.module, each.name) for each in traced]
    if judgement.complete:
        if known[: len(imports)] != imports:
            yield Violation("recorded", f"{how}: imported {imports}, traced {known}")
        ends = [trace.end for trace in judgement.traces][: seen["finished"]]
        if ends != seen["ends"]:
            yield Violation("recorded", f"{how}: read up to {seen['ends']}, traced up to {ends}")
    else:
        spare = sum(not each.literal for each in traced)
        missing = Counter(imports) - Counter(known)
        if missing.total() > spare:
            yield Violation("recorded", f"{how}: imported {sorted(missing)}, which the trace does not have")
    if how == "inert":
        yield from _called(judgement, seen)


def _called(judgement: Judgement, seen: dict[str, Any]) -> Iterator[Violation]:
    calls: list[_Named] = [
        (effect[1], effect[2]) if effect[0] == "call" else None
        for effect in seen["effects"]
        if effect[0] in ("call", "call of a result")
    ]
    traced = [_callee(call) for trace in judgement.traces for call in trace.calls]
    # What a file itself sets as __setstate__ is called by the next BUILD; that is told as state.special, not as a call.
    special = any(each.rule == "state.special" for each in judgement.report.findings)
    builds = sum(len(trace.builds) for trace in judgement.traces) if special else 0
    if judgement.complete and not special:
        if traced[: len(calls)] != calls:
            yield Violation("recorded", f"called {calls}, traced {traced}")
    elif len(calls) > len(traced) + builds:
        yield Violation("recorded", f"made {len(calls)} calls, traced {len(traced)}")


def _finished(judgement: Judgement, seen: dict[str, Any], how: str) -> Iterator[Violation]:
    stopped = sum(trace.stopped for trace in judgement.traces)
    if seen["finished"] > stopped and not judgement.anomalies & DIVERGENT:
        yield Violation("finished", f"{how}: {seen['finished']} loads came to their end, {stopped} traces did")


def _values(judgement: Judgement, seen: dict[str, Any]) -> Iterator[Violation]:
    for trace, value in zip(judgement.traces, seen["values"], strict=False):
        traced = canonical(trace.result, _look)
        if traced != value:
            yield Violation("values", f"unpickled {str(value)[:2000]}, traced {str(traced)[:2000]}")


def _scalars(judgement: Judgement) -> Iterator[Violation]:
    """The plain values of a dict without tensors are all told, under their own names."""
    state_dict, result = judgement.container.state_dict, judgement.traces[0].result
    if state_dict is None or judgement.container.kind != "pickle" or type(result) is not Dict or state_dict.wrapper:
        return
    last = {key: value for key, value in result.pairs if type(key) is str}
    if len(result.pairs) != sum(type(key) is str for key, _ in result.pairs):
        return
    for key, value in last.items():
        if type(value) in (bool, int, float, str) and "." not in key and key:
            told = state_dict.scalars.get(key)
            if repr(told) != repr(value):
                yield Violation("values", f"{key!r} is {value!r}, but told to be {told!r}")


def _safe(judgement: Judgement, effects: list[list[str]], policy: Policy) -> Iterator[Violation]:
    traced = Counter(_callee(call) for trace in judgement.traces for call in trace.calls)
    calls: Counter[_Named] = Counter()
    for effect in effects:
        what, role = effect[0], None
        if len(effect) > 2:
            role = policy.allows(*_modern(effect))
        match what:
            case "persistent":
                fine = judgement.container.kind in ("torch-zip", "torch-legacy")
            case "import":
                fine = role is not None
            case "call":
                calls[(effect[1], effect[2])] += 1
                fine = role is not None and role.call is not None
            case "state" | "pairs" | "items":
                allowed = role and {"state": role.build, "pairs": role.pairs, "items": role.items}[what]
                fine = bool(allowed) and effect[3] == "instance"
            case _:
                fine = False
        if not fine:
            yield Violation("safe", f"{effect}")
    for called, count in calls.items():
        if count > 2 * traced[called]:  # two unpicklers made them
            yield Violation(
                "safe", f"{called} is called {count} times by two unpicklers, {traced[called]} times traced"
            )


def _modern(effect: list[str]) -> tuple[str, str]:
    return _PYTHON_2.get(effect[1], effect[1]), effect[2]


def _callee(call: Call) -> _Named:
    callee = _loaded(call.callee)
    return (callee.module, callee.name) if type(callee) is Global else None


def _loaded(value: Any) -> Any:
    """What the sandbox gives for a persistent id; other values as they are."""
    if type(value) is Persistent and not value.text and type(value.pid) is tuple and len(value.pid) == 4:
        return value.pid[1] if type(value.pid[0]) is str and value.pid[0] == "module" else value
    return value


def _look(value: Any) -> Any:
    """A traced value as :mod:`fuzz.canonical` wants it."""
    match _loaded(value):
        case Global() as found:
            return Imported(found.module, found.name)
        case Dict() as found:
            return Mapping(found.pairs)
        case SetOf() as found:
            return Collection(found.items, found.frozen)
        case Call() as found:
            return Object(found.callee, found.args, found.states, found.pairs, found.items)
        case Persistent() as found:
            return Loaded(found.pid)
        case Blob() as found:
            return found.kind
        case found:
            return found
