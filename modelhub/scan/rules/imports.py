"""What a pickle imports: ``call.dangerous``, ``import.dangerous``, ``call.unfamiliar``, ``import.unfamiliar``,
``object.executable``, ``tensor.unmodelled``.

A name is judged once, at its worst use: called, made an object of, or only referenced. Even a reference imports the
module, which runs its code; so nothing unknown is merely mentioned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelhub.pickles import Call, Global, Trace
from modelhub.pickles.render import render
from modelhub.scan.findings import Confidence, Finding, Location, Severity
from modelhub.scan.policy import Policy
from modelhub.scan.rules.names import canonical, constructs, is_construction


@dataclass(slots=True)
class _Use:
    """How one name is used: where first, how often, and the first call and construction of it."""

    first: Global
    count: int = 0
    call: Call | None = None
    construction: Call | None = None


def judge_imports(trace: Trace, policy: Policy) -> Iterator[Finding]:
    """A finding for every imported name that is not allowed."""
    uses: dict[tuple[str, str], _Use] = {}
    for imported in trace.imports:
        if imported.opcode == "EXT" or policy.allows(*canonical(imported, trace.protocol)):
            continue
        uses.setdefault(canonical(imported, trace.protocol), _Use(imported)).count += 1
    if not uses:
        return
    for call in trace.calls:
        callee = constructs(call)
        use = uses.get(canonical(callee, trace.protocol)) if type(callee) is Global else None
        if use is not None and is_construction(call):
            use.construction = use.construction or call
        elif use is not None:
            use.call = use.call or call
    for (module, name), use in uses.items():
        yield _judge(module, name, use, trace, policy)


def _judge(module: str, name: str, use: _Use, trace: Trace, policy: Policy) -> Finding:
    called = use.call or use.construction
    at = Location(None, called.offset if called else use.first.offset)
    evidence = render(called) if called else use.first.qualified
    title = ascii(f"{module}.{name}")[1:-1][:120]
    if (module, name) in policy.care:
        message = f"uses {title}: valid torch that is not proven harmless here"
        return Finding("tensor.unmodelled", Severity.LOW, Confidence.HIGH, message, at, evidence)
    denied = policy.denies(module, name)
    if denied is not None and called:
        message = f"calls {title}, which {denied.reason}"
        return Finding("call.dangerous", denied.severity, Confidence.HIGH, message, at, evidence)
    if denied is not None:
        severity = min(denied.severity, Severity.HIGH)
        message = f"imports {title}, which {denied.reason}"
        return Finding("import.dangerous", severity, Confidence.MEDIUM, message, at, evidence)
    if use.call is None and policy.is_executable(module):
        message = f"holds a {title}: an executable object that cannot be proven"
        return Finding("object.executable", Severity.LOW, Confidence.HIGH, message, at, evidence)
    if called:
        severity = Severity.MEDIUM if trace.stopped else Severity.HIGH
        message = f"calls {title}, which no tensor file needs"
        return Finding("call.unfamiliar", severity, Confidence.MEDIUM, message, at, evidence)
    message = f"imports {title}, which is not known"
    return Finding("import.unfamiliar", Severity.LOW, Confidence.MEDIUM, message, at, evidence)
