"""What a pickle imports: ``call.dangerous``, ``import.dangerous``, ``call.unfamiliar``, ``import.unfamiliar``,
``object.executable``, ``tensor.unmodelled``.

A name is judged once, at its worst use: called, made an object of, or only referenced. Even a reference imports the
module, which runs its code; so nothing unknown is merely mentioned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelhub.pickles import Call, Dict, Global, Trace
from modelhub.pickles.render import render
from modelhub.scan.findings import Confidence, Finding, Location, Severity
from modelhub.scan.policy import Denied, Policy
from modelhub.scan.rules.names import canonical, constructs, is_construction, wraps_part

_WORD = re.compile(r"[A-Za-z0-9_+-]{0,40}")


class _Use:
    """How one name is used: where first, the first call, construction and preparation of a part with it, and whether
    all that is made of it are networks."""

    __slots__ = ("call", "construction", "first", "network", "part")

    def __init__(self, first: Global) -> None:
        self.first = first
        self.call: Call | None = None
        self.construction: Call | None = None
        self.part: Call | None = None
        self.network = True


def judge_imports(trace: Trace, policy: Policy) -> Iterator[Finding]:
    """A finding for every imported name that is not allowed."""
    protocol = trace.protocol
    uses: dict[tuple[str, str], _Use] = {}
    for imported in trace.imports:
        if imported.opcode == "EXT":
            continue  # an anomaly of its own
        pair = canonical(imported, protocol)
        if pair not in uses and (not imported.literal or policy.allows(*pair) is None):
            uses[pair] = _Use(imported)
    if not uses:
        return
    for call in trace.calls:
        callee = constructs(call)
        use = uses.get(canonical(callee, protocol)) if type(callee) is Global else None
        if use is None:
            continue
        if is_construction(call) or _is_choice(call, use.first):
            use.construction = use.construction or call
            use.network = use.network and _is_network(call)
        elif wraps_part(call, protocol, policy):
            use.part = use.part or call
        else:
            use.call = use.call or call
    for (module, name), use in uses.items():
        yield _judge(module, name, use, trace, policy)


def _judge(module: str, name: str, use: _Use, trace: Trace, policy: Policy) -> Finding:
    called = use.call or use.construction or use.part
    at = Location(None, called.offset if called else use.first.offset)
    evidence = render(called) if called else use.first.qualified
    title = _title(module, name, use.first)
    if (module, name) in policy.care:
        message = f"uses {title}: valid, but not proven harmless here"
        return Finding("tensor.unmodelled", Severity.LOW, Confidence.HIGH, message, at, evidence)
    if use.call is None and use.first is trace.imports[-1] and _is_cut_off(module, name, trace, policy):
        message = f"breaks off within an import, at {title}"
        return Finding("import.unfamiliar", Severity.LOW, Confidence.MEDIUM, message, at, evidence)
    denied = policy.denies(module, name) or policy.denies(use.first.module, name)
    whole = use.part if use.call is None and use.construction is None else None
    if denied is not None and whole is None:
        return _dangerous(title, denied, called, at, evidence)
    network = use.construction is not None and use.network
    if whole is not None or (use.call is None and (policy.is_executable(module) or network)):
        message = f"holds a {title}: an executable object that cannot be proven"
        return Finding("object.executable", Severity.LOW, Confidence.HIGH, message, at, evidence)
    if called:
        severity = Severity.MEDIUM if trace.stopped else Severity.HIGH
        message = f"calls {title}, which no tensor file needs"
        if not trace.stopped:
            message += ", before it breaks off"
        return Finding("call.unfamiliar", severity, Confidence.MEDIUM, message, at, evidence)
    message = f"imports {title}, which is not known"
    return Finding("import.unfamiliar", Severity.LOW, Confidence.MEDIUM, message, at, evidence)


def _dangerous(title: str, denied: Denied, called: Call | None, at: Location, evidence: str) -> Finding:
    told = f" ({', '.join(denied.advisories[:2])})" if denied.advisories else ""
    if called:
        message = f"calls {title}, which {denied.reason}{told}"
        return Finding("call.dangerous", denied.severity, Confidence.HIGH, message, at, evidence)
    message = f"imports {title}, which {denied.reason}{told}"
    severity = min(denied.severity, Severity.HIGH)
    return Finding("import.dangerous", severity, Confidence.MEDIUM, message, at, evidence)


def _title(module: str, name: str, imported: Global) -> str:
    """The name as Python 3 knows it, and as the file spells it where that is another one."""
    title = ascii(f"{module}.{name}")[1:-1][:120]
    if (module, name) == (imported.module, imported.name):
        return title
    return f"{title} (written {ascii(imported.qualified)[1:-1][:80]})"


def _is_cut_off(module: str, name: str, trace: Trace, policy: Policy) -> bool:
    """Whether the file ends in the middle of the name, and it could be that of an allowed import."""
    if trace.stopped or not trace.anomalies or trace.anomalies[-1].rule != "pickle.truncated":
        return False
    return any(
        whole.startswith(name) if of == module else not name and of.startswith(module) for of, whole in policy.allowed
    )


def _is_network(call: Call) -> bool:
    """Whether *call* makes an object without arguments and gives it the state of a ``torch.nn.Module`` (torch 2.13)."""
    if len(call.states) != 1 or not is_construction(call):
        return False
    if call.opcode != "REDUCE" and (call.opcode != "NEWOBJ" or call.args != ()):
        return False
    state = call.states[0]
    return type(state) is Dict and {"_parameters", "_buffers", "_modules"} <= {
        key for key, _ in state.pairs if type(key) is str
    }


def _is_choice(call: Call, imported: Global) -> bool:
    """``Kind('name')``: how a member of an enumeration is written, with a class's name and one plain value: a number
    or a word, since a path or an address would be something to open."""
    name = imported.name
    args = call.args
    return (
        name[:1].isupper()
        and not name.isupper()
        and call.opcode == "REDUCE"
        and call.kwargs is None
        and type(args) is tuple
        and len(args) == 1
        and (type(args[0]) is int or (type(args[0]) is str and _WORD.fullmatch(args[0]) is not None))
    )
