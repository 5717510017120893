"""What each pickle of a file would do, as Python: the evidence behind a verdict.

The lines are fickling's decompilation, made in a child process; where it has none, modelhub's own reading of the trace.
Nothing of it is ever run, and nothing in it can steer a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from modelhub.anomalies import Anomaly
from modelhub.container import Container
from modelhub.pickles import Build, Call, Global, Mutation, Trace
from modelhub.pickles.render import render
from modelhub.scan.fickling_child import TIMEOUT, Answer, Question, ask, printable, questions_about
from modelhub.scan.policy import Policy
from modelhub.scan.policy_file import load_policy
from modelhub.scan.rules.names import allowed, legacy_class

MAX_PROGRAMS = 64
MAX_LINES = 200
MAX_WIDTH = 500
"""Pickles that are shown of one file, lines of one pickle, and characters of one line."""

_FRAMING = frozenset({"magic", "protocol", "system", "storage-keys"})

Row = tuple[int | None, str]
"""The byte offset, in the member, of the opcode that does it (``None``: a remark), and the line of Python."""


@dataclass(frozen=True, slots=True)
class Decompiled:
    """One pickle as lines of Python, and whose reading it is; *member* as findings name it."""

    member: str | None
    lines: tuple[Row, ...]
    by: Literal["fickling", "modelhub"]


def decompile(
    container: Container, *, timeout: float = TIMEOUT, policy: Policy | None = None
) -> tuple[Decompiled, ...]:
    """Every pickle program of *container*, still open, as Python, within *timeout* seconds. Never raises.

    Of a long one those lines are kept that *policy* (default: modelhub's own) does not allow, and the first of the
    others. The plain numbers and lists that frame a legacy checkpoint are left out.
    """
    policy = policy or load_policy()
    asked = [question for question in questions_about(container) if not _is_framing(question)]
    shown = asked[:MAX_PROGRAMS]
    answers = ask("decompile", shown, timeout)
    found = [_decompiled(question, answer, policy) for question, answer in zip(shown, answers, strict=True)]
    if len(asked) > len(shown):
        rest = ((None, f"# {len(asked) - len(shown)} more pickles are not shown"),)
        found.append(Decompiled(None, rest, "modelhub"))
    return tuple(found)


def _is_framing(question: Question) -> bool:
    trace = question.program.trace
    return question.program.role in _FRAMING and trace.complete and not (trace.imports or trace.calls)


def _decompiled(question: Question, answer: Answer, policy: Policy) -> Decompiled:
    trace, origin = question.program.trace, question.program.origin
    notable = {offset - origin for offset in _notable(trace, policy)}
    told = answer.get("lines")
    if told:
        rows: list[tuple[int | None, _Deed]] = [(trace.start + pos - origin, text) for pos, text in told]
        if answer["more"]:
            rows.append((None, f"# {answer['more']} more lines"))
        return Decompiled(question.member, _bounded(rows, notable), "fickling")
    why = answer.get("failed", "it found nothing")
    remark = (None, _shown(f"# modelhub's own reading; fickling has none: {why}"))
    deeds = [(None if at is None else at - origin, deed) for at, deed in _deeds(trace)]
    return Decompiled(question.member, (remark, *_bounded(deeds, notable)), "modelhub")


_Deed = str | Global | Call | Build | Mutation | Anomaly | Trace
"""What a line is about; text is the line itself."""


def _deeds(trace: Trace) -> list[tuple[int | None, _Deed]]:
    """Everything that the abstract machine saw, in the order of the opcodes, and the result."""
    seen: tuple[Global | Call | Build | Mutation | Anomaly, ...]
    seen = (*trace.imports, *trace.calls, *trace.builds, *trace.mutations, *trace.anomalies)
    deeds: list[tuple[int | None, _Deed]] = [(each.offset, each) for each in seen]
    deeds.sort(key=lambda deed: trace.start if deed[0] is None else deed[0])
    if trace.stopped:
        deeds.append((trace.end - 1, trace))
    return deeds


def _line(deed: _Deed) -> str:
    match deed:
        case Global():
            return f"from {deed.module} import {deed.name}"
        case Call():
            return render(deed, MAX_WIDTH)
        case Build():
            return f"{render(deed.target)}.__setstate__({render(deed.state, MAX_WIDTH)})"
        case Mutation():
            return f"# {deed.opcode} on {render(deed.target)}"
        case Anomaly():
            return f"# {deed.message} [{deed.rule}]"
        case Trace():
            return f"result = {render(deed.result, MAX_WIDTH)}"
    return deed


def _notable(trace: Trace, policy: Policy) -> Iterator[int]:
    """Offsets of the imports and calls that are not allowed, and of what is odd."""
    yield from (each.offset for each in trace.imports if allowed(each, trace.protocol, policy) is None)
    for call in trace.calls:
        callee = legacy_class(call.callee)
        if type(callee) is not Global or allowed(callee, trace.protocol, policy) is None:
            yield call.offset
    yield from (change.offset for change in trace.mutations)
    yield from (odd.offset for odd in trace.anomalies if odd.offset is not None)


def _bounded(rows: Sequence[tuple[int | None, _Deed]], notable: set[int]) -> tuple[Row, ...]:
    """At most :data:`MAX_LINES` of *rows*, *notable* ones before others; remarks say how many are left out between."""
    # a stable sort: notable rows and the last one come first, each kind in its own order
    wanted = sorted(range(len(rows)), key=lambda n: rows[n][0] not in notable and n < len(rows) - 1)
    keep = set(wanted[:MAX_LINES])
    bounded: list[Row] = []
    for is_kept, run in groupby(range(len(rows)), keep.__contains__):
        if is_kept:
            bounded += [(rows[n][0], _shown(_line(rows[n][1]))) for n in run]
        else:
            bounded.append((None, f"# {len(list(run))} lines left out"))
    return tuple(bounded)


def _shown(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= MAX_WIDTH else shown[: MAX_WIDTH - 3] + "..."
