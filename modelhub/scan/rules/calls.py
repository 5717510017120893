"""What a pickle does with allowed names: ``call.misused``, ``call.computed``, ``state.*``, ``items.*``,
``persistent.unknown``.

Names that are not allowed are judged in ``imports``; here, an allowed one must keep to the role it is allowed in.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from modelhub.pickles import Call, Dict, Global, Persistent, Trace, Value, declaration_of
from modelhub.pickles.render import render
from modelhub.scan.contracts import CALLS, STATES
from modelhub.scan.findings import Confidence, Finding, Location, Severity
from modelhub.scan.policy import Allowed, Policy
from modelhub.scan.rules.names import allowed, constructs, legacy_class
from modelhub.scan.values import is_special

_DEEPEST = 4
"""Calls within calls that make a mapping: one OrderedDict is what anybody writes."""

_MOST_ARGUMENTS = 3
"""Arguments that may be such a mapping: those of ``copyreg._reconstructor``, the third of which is one."""


def judge_calls(trace: Trace, policy: Policy, followed: Container[int]) -> Iterator[Finding]:
    """Every call must be of an import; one of an allowed name must fulfil its contract.

    *followed* are the offsets of the calls that load bytes, where those bytes have been read as a file of their own.
    """
    roles: dict[int, Allowed | None] = {}  # by identity: thousands of calls share a few imports
    for call in trace.calls:
        callee = legacy_class(call.callee)
        if type(callee) is not Global:
            message = "calls something that the pickle computes: what it is cannot be told from the file"
            yield _finding("call.computed", Severity.HIGH, message, call.offset, call)
            continue
        if id(callee) not in roles:
            roles[id(callee)] = allowed(callee, trace.protocol, policy)
        role = roles[id(callee)]
        if role is None:
            continue
        if role.call is None:
            wrong: str | None = "it is only allowed to be referred to"
        else:
            wrong = CALLS[role.call](call)
            if wrong is None and role.call == "nested" and call.offset not in followed:
                wrong = "the bytes that torch would load as a file of their own were not examined"
        if wrong is not None:
            message = f"calls {callee.qualified} in an unusual way: {wrong}"
            yield _finding("call.misused", role.misuse, message, call.offset, call)
        made = constructs(call)
        kind = role if made is callee else allowed(made, trace.protocol, policy)
        if kind is not None and kind.pairs and kind.tier == "trainers" and _sets_special_items(call):
            message = "gives an object whose items are attributes one that Python itself calls or obeys"
            yield _finding("state.special", Severity.HIGH, message, call.offset, call)
        if (call.pairs and not role.pairs) or (call.items and not role.items):
            message = f"adds items to a {callee.qualified}"
            yield _finding("items.misused", Severity.MEDIUM, message, call.offset, call)


def judge_states(trace: Trace, policy: Policy) -> Iterator[Finding]:
    """BUILD may only give an allowed object the kind of state that its class is known to have."""
    for build in trace.builds:
        target = build.target
        if _sets_special(build.state):
            message = "gives an object an attribute that Python itself calls or obeys, such as __setstate__"
            yield _finding("state.special", Severity.HIGH, message, build.offset, build.state)
            continue
        if type(target) is not Call:
            severity = Severity.HIGH if type(target) is Global else Severity.MEDIUM
            message = "changes the attributes of something that it imports or did not make"
            yield _finding("state.foreign", severity, message, build.offset, target)
            continue
        made = constructs(target)
        role = allowed(made, trace.protocol, policy)
        if role is None:
            continue  # the class itself is judged as an import
        contract = STATES.get(role.build or "")
        wrong = contract(build.state, target) if contract else "it is not known to have a state"
        if wrong is not None:
            message = f"gives a {made.qualified} an unusual state: {wrong}"
            yield _finding("state.misused", Severity.MEDIUM, message, build.offset, build.state)


def judge_mutations(trace: Trace) -> Iterator[Finding]:
    """Items may only be added to dicts, lists and sets that the pickle itself has made."""
    for mutation in trace.mutations:
        severity = Severity.HIGH if type(mutation.target) is Global else Severity.MEDIUM
        message = f"changes the items of something that it imports or did not make ({mutation.opcode})"
        yield _finding("items.foreign", severity, message, mutation.offset, mutation.target)


def judge_persistent_ids(trace: Trace, storages: bool, classes: bool, tensors: bool) -> Iterator[Finding]:
    """A persistent id must ask for a tensor storage, where the file has *storages*, or for one of its *tensors* by
    number, or a class, where its format wraps *classes*; the class itself is judged as an import."""
    for persistent in trace.persistent_ids:
        if persistent.text or (storages and declaration_of(persistent) is not None):
            continue  # written as text it is an anomaly of its own
        if tensors and type(persistent.pid) is str and persistent.pid.isascii() and persistent.pid.isdecimal():
            continue
        if classes and type(legacy_class(persistent)) is Global:
            continue
        message = "asks its loader for an object that is not a tensor storage"
        yield _finding("persistent.unknown", Severity.MEDIUM, message, persistent.offset, persistent.pid)


def _sets_special(state: Value) -> bool:
    """Whether a BUILD state holds an attribute such as ``__setstate__`` or ``__class__``."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    keys: list[Value] = []
    for part in parts:
        if type(part) is Call and type(part.args) is tuple:
            for given in part.args:
                listed = given.pairs if type(given) is Dict else given if type(given) in (list, tuple) else ()
                keys += [pair[0] for pair in listed if type(pair) in (list, tuple) and pair]
        keys += [key for key, _ in part.pairs] if type(part) in (Dict, Call) else []
    return any(type(key) is str and is_special(key) and key.endswith("__") for key in keys)


def _sets_special_items(call: Call) -> bool:
    """Whether *call* makes a mapping with an item such as ``__setstate__``, or one whose name cannot be told."""
    return any(
        type(key) in (Call, Persistent) or (type(key) is str and is_special(key) and key.endswith("__"))
        for key in _keys(call, _DEEPEST)
    )


def _keys(made: Value, depth: int) -> Iterator[Value]:
    """The keys of the mapping *made*: of items added to it, and of what it is made of, a dict, a list of pairs, or a
    call with such arguments; what is nested deeper than *depth* stands for a key that cannot be told."""
    if type(made) in (Dict, Call):
        yield from (key for key, _ in made.pairs)
    elif type(made) in (list, tuple):
        yield from (pair[0] for pair in made if type(pair) in (list, tuple) and pair)
    if type(made) is Call and type(made.args) is tuple:
        yield from _keys(made.args, depth)  # addict takes the pairs themselves
        for given in made.args[:_MOST_ARGUMENTS]:
            is_pair = type(given) is tuple and len(given) == 2 and type(given[0]) not in (list, tuple)
            if type(given) is Call and not depth:
                yield given
            elif not is_pair:
                yield from _keys(given, depth - 1)


def _finding(rule: str, severity: Severity, message: str, offset: int, evidence: Value) -> Finding:
    return Finding(rule, severity, Confidence.HIGH, message, Location(None, offset), render(evidence))
