"""What stands below a value of a pickle: the items of dicts and lists, the parts of networks, none of them ever made.

A network (``torch.nn.Module``) and an object of a TorchScript program are known by the state that they are given, not
by their class. What of a network is no part of its ``state_dict()`` is told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelhub.pickles.arrays import makes_array
from modelhub.pickles.rebuild import is_tensor, rebuilds_tensor
from modelhub.pickles.values import PLAIN, Blob, Call, Dict, Global, Persistent, SetOf, Value

_DICT_TYPES = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "Counter"),
    ("typing", "OrderedDict"),
    ("builtins", "dict"),
    ("__builtin__", "dict"),
    ("torch.nn.modules.container", "ParameterDict"),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"),
    ("lightning.pytorch.utilities.parsing", "AttributeDict"),
    ("lightning_fabric.utilities.data", "AttributeDict"),
}
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_OF_NO_MEANING = frozenset({"training", "_is_full_backward_hook"})
"""What TorchScript keeps of every module."""


_TYPED = ("_rebuild_from_type", "_rebuild_from_type_v2")
_WRAPPED = 4


def describe(value: Value) -> str:
    """What *value* is, in a few words."""
    if type(value) is Call:
        what = "a call of" if value.opcode == "REDUCE" else "an object of class"
        if makes_array(value):
            return "a NumPy array"
        if is_tensor(value):
            what = "a tensor made by"
        callee = value.callee.qualified if type(value.callee) is Global else "something computed"
        return f"{what} {callee}"[:200]
    if type(value) is Global:
        return f"a reference to {value.qualified}"[:200]
    if type(value) is Dict:
        return f"a dict of {len(value.pairs)}"
    if type(value) in (list, tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if type(value) is SetOf:
        return f"a set of {len(value.items)}"
    if type(value) is Persistent:
        return "a storage without a tensor"
    if type(value) is Blob:
        return f"{value.nbytes} bytes of {value.kind}"
    if type(value) is bytes:
        return f"{len(value)} bytes"
    if value is PLAIN:
        return "numbers and text that are not listed"
    if value is None or type(value) in (bool, int, float, str):
        return f"{value!r:.100}"
    return "something that could not be told"


def is_dict(value: Value) -> bool:
    """Whether *value* is a dict, or an object of a class that is one."""
    if type(value) is Dict:
        return True
    return (
        type(value) is Call and type(value.callee) is Global and (value.callee.module, value.callee.name) in _DICT_TYPES
    )


def children(value: Value) -> Iterator[tuple[str, Value]]:
    """What stands directly below *value*, with the part that it adds to the path."""
    state = module_state(value)
    if state is not None:
        yield from _module_children(state)
    elif is_dict(value):
        yield from entries(value)
    elif type(value) in (list, tuple):
        for index, child in enumerate(value):
            yield str(index), child
    elif _is_script_object(value):
        yield from ((key, child) for key, child in children(value.states[-1]) if key not in _OF_NO_MEANING)


def breadth(value: Value) -> int:
    """How much :func:`children` has to look at, about."""
    if type(value) in (list, tuple):
        return len(value)
    parts = _own_pairs(value)
    given = value.args[-1] if type(value) is Call and type(value.args) is tuple and value.args else ()
    within = sum(len(_own_pairs(part)) for key, part in parts if type(key) is str and key in _MODULE_PARTS)
    return len(parts) + within + (len(given) if type(given) in (list, tuple) else len(_own_pairs(given)))


def _own_pairs(value: Value) -> Sequence[tuple[Value, Value]]:
    """The pairs of a dict, or of an object's last state or, without one, its own."""
    if type(value) is Call:
        return value.states[-1].pairs if value.states and type(value.states[-1]) is Dict else value.pairs
    return value.pairs if type(value) is Dict else ()


def module_state(value: Value) -> dict[str, Value] | None:
    """The attributes of a pickled ``torch.nn.Module``, known by its parts and not by its class."""
    if type(value) is not Call or not value.states or type(value.states[-1]) is not Dict:
        return None
    state = dict(entries(value.states[-1]))
    return state if "_parameters" in state and "_modules" in state else None


def beside_module(state: dict[str, Value]) -> Iterator[tuple[str, str]]:
    """Tensors of a network's *state* that its ``state_dict()`` does not have: their names, and what they are."""
    fleeting = _fleeting(state)
    for key, child in entries(state.get("_buffers")):
        if key in fleeting and is_tensor(child):
            yield key, "a buffer that is not saved with the network's state"
    listed = _listed(state)
    for key, child in state.items():
        if key not in listed and is_tensor(child):
            yield key, "a tensor that is neither a parameter nor a buffer of its network"


def states_of(value: Value) -> Iterator[Value]:
    """What gives attributes to the tensor *value*, which torch makes of it and of the elements (torch 2.13)."""
    for _ in range(_WRAPPED):
        if type(value) is not Call or type(value.args) is not tuple or makes_array(value):
            return  # a numpy array's state is its elements
        given = (*value.states, value.args[3]) if _is_given_state(value) else value.states
        for state in given:
            yield from state if type(state) is tuple else (state,)
        if rebuilds_tensor(value) in _TYPED and len(value.args) > 2 and type(value.args[0]) is Global:
            value = Call(value.args[0], value.args[2], None, value.offset, "REDUCE")
        else:
            value = value.args[0] if value.args else None


def _is_given_state(call: Call) -> bool:
    return len(call.args) == 4 and rebuilds_tensor(call) in (*_TYPED, "_rebuild_parameter_with_state")


def _module_children(state: dict[str, Value]) -> Iterator[tuple[str, Value]]:
    """What ``state_dict()`` has of a network with this *state* (torch 2.13, ``Module._save_to_state_dict``)."""
    fleeting = _fleeting(state)
    for part in _MODULE_PARTS:
        for key, child in entries(state.get(part)):
            if child is not None and not (part == "_buffers" and key in fleeting):
                yield key, child
    for key in _listed(state):
        if key in state and is_tensor(state[key]):
            yield key, state[key]


def _fleeting(state: dict[str, Value]) -> frozenset[str]:
    """Names of buffers with ``persistent=False``."""
    held = state.get("_non_persistent_buffers_set")
    if type(held) is SetOf:
        names: Value = held.items
    else:  # set([...]), in protocols up to 3
        names = held.args[0] if type(held) is Call and type(held.args) is tuple and held.args else ()
    return frozenset(name for name in names if type(name) is str) if type(names) in (list, tuple) else frozenset()


def _listed(state: dict[str, Value]) -> tuple[str, ...]:
    """The keys of a ``ParameterDict``, whose tensors may be plain attributes of it."""
    return tuple(key for key, _ in entries(state["_keys"])) if type(state.get("_keys")) is Dict else ()


def _is_script_object(value: Value) -> bool:
    """Whether *value* is an object of a class that a TorchScript program brings along."""
    if type(value) is not Call or type(value.callee) is not Global or not value.states:
        return False
    return value.callee.module.partition(".")[0] == "__torch__"


def entries(value: Value) -> Iterator[tuple[str, Value]]:
    """The items of a dict as Python would hold them (the last of equal keys), with keys as text.

    A key that cannot be a part of a name is told by what it is.
    """
    pairs: Sequence[tuple[Value, Value]] = ()
    if type(value) is Call:
        made: list[tuple[Value, Value]] = []
        if type(value.args) is tuple and value.args and type(value.args[-1]) in (list, tuple, Dict):
            given = value.args[-1]
            listed = given.pairs if type(given) is Dict else given
            made += [tuple(p) for p in listed if type(p) in (list, tuple) and len(p) == 2]
        if value.states and type(value.states[-1]) is Dict and not value.pairs:
            made += value.states[-1].pairs
        pairs = [*made, *value.pairs]
    elif type(value) is Dict:
        pairs = value.pairs
    held = {key: child for key, child in pairs if _is_name(key)}
    for key, child in held.items():
        yield ".".join(map(str, key)) if type(key) is tuple else str(key), child
    if len(held) == len(pairs):
        return
    for index, (key, child) in enumerate(pairs):
        if key is not PLAIN and not _is_name(key):
            yield f"<{index}: {describe(key)}>", child
    if any(key is PLAIN for key, _ in pairs):
        yield "...", PLAIN


def _is_name(key: Value) -> bool:
    """Whether a dict's key can be part of a tensor's name; only flat keys, so that hashing them is cheap."""
    if type(key) is tuple:
        return len(key) <= 8 and all(type(part) in (str, int) for part in key)
    return key is None or type(key) in (str, int, float, bool)
