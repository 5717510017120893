"""Which names a pickle imports, and what role it uses them in."""

from __future__ import annotations

from modelhub.pickles import Blob, Call, Global, Persistent, Value
from modelhub.scan.policy import Allowed, Policy

UNRENAMED = frozenset(
    """torch collections numpy _codecs typing argparse datetime pathlib pytorch_lightning lightning omegaconf diffusers
    os posix builtins""".split()
)
"""First parts of module names that Python 3 did not rename: most imports need no look into the tables."""


_FUNCTIONS = ("torch._C", "_VariableFunctionsClass")
"""What torch's own functions are attributes of: ``getattr(_VariableFunctionsClass, 'relu')`` is ``torch.relu``."""


def canonical(imported: Global, protocol: int) -> tuple[str, str]:
    """Module and name as Python 3 would import them.

    Below protocol 3 the unpickler maps the names of Python 2 (CPython's ``_compat_pickle``, names before modules);
    from protocol 3 on it does not, and ``__builtin__`` is a module that does not exist.
    """
    module, name = imported.module, imported.name
    if protocol >= 3 or module.partition(".")[0] in UNRENAMED:
        return module, name
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


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


def wraps_part(call: Call, protocol: int, policy: Policy) -> bool:
    """Whether *call* only prepares a part of a whole pickled program: ``getattr(Detect, 'forward')``, which is how
    protocol 2 writes the methods of YOLO's segmenters, or ``partial(LayerNorm, ...)``, as vision transformers have it.
    """
    args = call.args
    if call.opcode != "REDUCE" or type(call.callee) is not Global or type(args) is not tuple or not args:
        return False
    target = args[0]
    if type(target) is not Global or not target.literal or call.kwargs is not None:
        return False
    module, name = canonical(target, protocol)
    if (module, name) != _FUNCTIONS and (not policy.is_executable(module) or policy.denies(module, name) is not None):
        return False
    match canonical(call.callee, protocol):
        case ("builtins", "getattr"):
            return len(args) == 2 and type(args[1]) is str and args[1].isidentifier() and not args[1].startswith("_")
        case ("functools", "partial"):
            return len(args) == 1
    return False
