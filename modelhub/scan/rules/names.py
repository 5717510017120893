"""Which names a pickle imports, and what role it uses them in."""

from __future__ import annotations

from modelhub.pickles import Blob, Call, Global, Persistent, Value
from modelhub.scan.policy import Allowed, Policy

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def canonical(imported: Global, protocol: int) -> tuple[str, str]:
    """Module and name as Python 3 would import them.

    Below protocol 3 the unpickler maps Python 2's module names (CPython's ``_compat_pickle.IMPORT_MAPPING``); only the
    two that tensor checkpoints use are mapped here, the others stay unfamiliar under their old name.
    """
    module = _PYTHON_2.get(imported.module, imported.module) if protocol < 3 else imported.module
    return module, imported.name


def legacy_class(value: Value) -> Value:
    """The class inside the legacy format's ``('module', class, source file, source)`` persistent id, or *value*.

    Its loader gives the class itself for such an id (``persistent_load`` in torch's ``_legacy_load``).
    """
    if type(value) is Persistent and type(value.pid) is tuple and len(value.pid) == 4 and value.pid[0] == "module":
        _, wrapped, file, text = value.pid
        if type(wrapped) is Global and type(file) is str and type(text) in (str, Blob):
            return wrapped
    return value


def allowed(imported: Value, protocol: int, policy: Policy) -> Allowed | None:
    """The role in which *imported* is allowed, ``None`` for anything that is not an allowed import."""
    if type(imported) is not Global or not imported.literal:
        return None
    return policy.allows(*canonical(imported, protocol))


def constructs(call: Call) -> Value:
    """The class or function that *call* really calls: ``copyreg._reconstructor(cls, ...)`` makes a ``cls``."""
    callee = legacy_class(call.callee)
    if (
        type(callee) is Global
        and callee.name == "_reconstructor"
        and callee.module in ("copyreg", "copy_reg")
        and type(call.args) is tuple
        and call.args
        and type(call.args[0]) is Global
    ):
        return call.args[0]
    return callee


def is_construction(call: Call) -> bool:
    """Whether *call* makes a new object of a class, rather than calling a function."""
    return call.opcode in ("NEWOBJ", "NEWOBJ_EX") or constructs(call) is not legacy_class(call.callee)
