"""All the pickle programs in a run of bytes: the one that a loader runs, and what could hide behind its STOP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.base import PickleProgram, Skipped
from modelhub.container.nesting import Nesting
from modelhub.pickles import Global, Limits, Trace, trace_pickle
from modelhub.source import Source

_PROTO = re.compile(rb"\x80[\x02-\x05]")
_HIDDEN = 8
_HIDDEN_BYTES = 256 << 10
"""Places where a pickle may begin behind other bytes, and bytes of each, that are looked at."""

MAX_PROGRAMS = 64
MAX_FOLLOWING = 8 << 20
"""Pickles, and bytes after the first of them, that are followed in one run; the rest is skipped and said to be."""

SMALL = Limits(program=MAX_FOLLOWING)
"""Budget of a pickle that does not make the tensors' dict, and so has no reason to be large."""


_UNENDING = frozenset({"pickle.limit", "pickle.exhausting"})


class Programs(NamedTuple):
    """The programs found, in order, what is odd about what surrounds them, and what was not followed.

    Those of role ``nested`` come last: they lie in bytes that the ones before them hand to torch.
    """

    programs: tuple[PickleProgram, ...]
    anomalies: tuple[Anomaly, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def first(self) -> Trace:
        return self.programs[0].trace


def read_programs(
    source: Source,
    start: int,
    end: int,
    member: str | None = None,
    role: str = "object",
    *,
    nesting: Nesting,
) -> Programs:
    """Trace the pickle at *start* and any that follow it up to *end*, and those in bytes that they hand to torch.

    Only the first has *role*; the others are ``other``. Bytes after a STOP are ``pickle.several`` when they are
    pickles and ``pickle.trailing-bytes`` when they are not; with a *member* their offsets are relative to *start*.
    """
    first = trace_pickle(source, start, end, Limits() if role == "object" else SMALL)
    base = 0 if member is None else start
    programs = [PickleProgram(first, member, role, base, source)]
    anomalies: list[Anomaly] = []
    skipped: list[Skipped] = []
    trace = first
    while trace.stopped and trace.end < end:
        position = trace.end
        if len(programs) == MAX_PROGRAMS or position > first.end + MAX_FOLLOWING:
            message = f"after {len(programs)} pickles in a row, the rest was not followed"
            anomalies.append(Anomaly("pickle.limit", message, member, position - base))
            skipped.append(Skipped(message, member))
            break
        trace = trace_pickle(source, position, end, SMALL)
        if not acts(trace):
            hidden = _behind(source, position, min(end, first.end + MAX_FOLLOWING))
            if hidden is not None:
                programs.append(PickleProgram(hidden, member, "other", base, source))
            message = f"{end - position} bytes follow the pickle's STOP"
            anomalies.append(Anomaly("pickle.trailing-bytes", message, member, position - base))
            skipped.append(Skipped("the bytes after the pickle are of no known form", member))
            break
        programs.append(PickleProgram(trace, member, "other", base, source))
    if len(programs) > 1:
        message = "more pickles follow the one that is loaded"
        anomalies.append(Anomaly("pickle.several", message, member, first.end - base))
    inner = hand_over(source, programs, nesting)
    return Programs((*programs, *inner.programs), (*anomalies, *inner.anomalies), (*skipped, *inner.skipped))


def hand_over(source: Source, programs: Sequence[PickleProgram], nesting: Nesting) -> Programs:
    """What *programs*, traced in *source*, hand to torch as bytes to be loaded; nearly always nothing."""
    if not any(each.name == "_load_from_bytes" for program in programs for each in program.trace.imports):
        return Programs(())
    from modelhub.container.nested import follow_calls

    found = list(follow_calls(source, programs, nesting))
    return Programs(
        tuple(program for inner in found for program in inner.pickles),
        tuple(odd for inner in found for odd in inner.anomalies),
        tuple(skip for inner in found for skip in inner.skipped),
    )


def _behind(source: Source, start: int, end: int) -> Trace | None:
    """A pickle that calls something, behind padding or other bytes that are none: what a loader that looks for the
    next pickle would run. Those of protocols without a mark are only looked for behind white space and zeros."""
    data = source.read_at(start, end - start)
    padding = len(data) - len(data.lstrip(b"\0\t\n\r "))
    marks = islice(_PROTO.finditer(data), _HIDDEN)
    for place in (padding, *(mark.start() for mark in marks)):
        trace = trace_pickle(source, start + place, min(end, start + place + _HIDDEN_BYTES), SMALL)
        if trace.calls and trace.stopped and all(map(_could_be_imported, trace.imports)):
            return trace
    return None


def acts(trace: Trace) -> bool:
    """Whether *trace* is that of a pickle, perhaps a broken one, and not of bytes that merely begin like one."""
    if trace.stopped or trace.calls or any(odd.rule in _UNENDING for odd in trace.anomalies):
        return True
    return any(map(_could_be_imported, trace.imports))


def _could_be_imported(each: Global) -> bool:
    return all(part.isidentifier() for part in each.qualified.split("."))
