"""From the trace of a state dict to its tensors, by name.

The value a pickle describes is a tree (really a graph) of dicts, lists and objects. Its tensors are named by the path
to them, joined by dots, after the wrapper that trainers put around a state dict has been taken off. What stands beside
them is kept as scalars or listed as leftovers: nothing is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.pickles.rebuild import (
    BadTensor,
    StorageDeclaration,
    declaration_of,
    rebuilds_tensor,
    tensor_of,
)
from modelhub.pickles.trace import Trace
from modelhub.pickles.values import PLAIN, Blob, Call, Dict, Global, Persistent, SetOf, Value
from modelhub.tensors import Leftover, Scalar, StateDict, StorageRef, TensorInfo

WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
"""Keys under which trainers put the state dict, in the order in which they are tried (spandrel's order)."""

_MAX_NODES = 200_000
_MAX_PLAIN_NODES = 10_000  # where nothing is called, there can be no tensor
_MAX_AGAIN = 20_000
_MAX_DEPTH = 64
_MAX_LEFTOVERS = 10_000
_EXPANSION = 1 << 28
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


class TensorReading(NamedTuple):
    """A state dict as a trace describes it, and what is wrong with the tensors in it.

    ``state_dict`` is ``None`` when the trace does not reach its end.
    """

    state_dict: StateDict | None
    anomalies: tuple[Anomaly, ...] = ()


def storage_declarations(trace: Trace) -> tuple[StorageDeclaration, ...]:
    """The storages that *trace* asks its loader for, each key once, in the order first asked for."""
    found: dict[str, StorageDeclaration] = {}
    for persistent in trace.persistent_ids:
        declared = declaration_of(persistent)
        if declared is not None:
            found.setdefault(declared.key, declared)
    return tuple(found.values())


def read_state_dict(trace: Trace, storages: Mapping[str, StorageRef]) -> TensorReading:
    """The tensors of *trace*'s result, bounds-checked against *storages* (by storage key).

    A tensor whose numbers do not fit its storage is left out and told as an anomaly ``tensor.*``.
    """
    anomalies = list(_conflicts(trace))
    if not trace.stopped:
        return TensorReading(None, tuple(anomalies))
    walk = _Walk(storages, _MAX_NODES if trace.calls else _MAX_PLAIN_NODES)
    root, wrapper = walk.unwrap(trace.result)
    walk.visit(root, "", 0)
    anomalies += walk.anomalies
    leftovers = tuple(walk.leftovers.values())
    return TensorReading(StateDict(walk.tensors, walk.scalars, leftovers, wrapper=wrapper), tuple(anomalies))


def _conflicts(trace: Trace) -> Iterator[Anomaly]:
    """Storages that are asked for twice with different sizes or element types."""
    first: dict[str, StorageDeclaration] = {}
    told: set[str] = set()
    for persistent in trace.persistent_ids:
        declared = declaration_of(persistent)
        if declared is None:
            continue
        known = first.setdefault(declared.key, declared)
        if (known.dtype, known.numel) != (declared.dtype, declared.numel) and declared.key not in told:
            told.add(declared.key)
            message = f"storage {declared.key!r:.40} is asked for with two sizes or element types"
            yield Anomaly("tensor.storage-conflict", message, None, declared.offset)


class _Walk:
    """One walk over a traced value; the order of the tensors is that of the file."""

    def __init__(self, storages: Mapping[str, StorageRef], most: int) -> None:
        self.storages = storages
        self.most = most
        self.tensors: dict[str, TensorInfo] = {}
        self.scalars: dict[str, Scalar] = {}
        self.leftovers: dict[str, Leftover] = {}
        self.anomalies: list[Anomaly] = []
        self.nodes = 0
        self.again = 0
        self.seen: set[int] = set()
        self.above: set[int] = set()

    def unwrap(self, root: Value) -> tuple[Value, tuple[str, ...]]:
        """The dict that holds the tensors, and the path to it; siblings are kept as scalars or leftovers."""
        path: list[str] = []
        seen: set[int] = set()
        while id(root) not in seen:
            seen.add(id(root))
            entries = dict(_entries(root)) if _is_dict(root) else {}
            inner = next((k for k in WRAPPERS if _holds_tensors(entries.get(k))), None)
            if inner is None or (path and path[-1] != inner) or entries[inner] is root:
                break
            if path and any(_is_tensor(value) for value in entries.values()):
                break  # a state dict that also holds another one under its own wrapper's name
            for key, value in entries.items():
                if key != inner:
                    self._beside(".".join([*path, key]), value)
            path.append(inner)
            root = entries[inner]
        return root, tuple(path)

    def visit(self, value: Value, path: str, depth: int) -> None:
        """Take up *value*, which stands at *path*, and everything below it."""
        if self.nodes >= self.most or self.again >= _MAX_AGAIN:
            return
        self.nodes += 1
        if self.nodes == _MAX_NODES:
            message = f"the file describes more than {_MAX_NODES} values: the rest was not looked at for tensors"
            self.anomalies.append(Anomaly("tensor.many", message))
        elif self.nodes == self.most:
            self._left("...", describe(PLAIN))
            return
        if type(value) is Call and rebuilds_tensor(value):
            self._tensor(value, path or "tensor")
            return
        if value is None or type(value) in (bool, int, float, str):
            self.scalars[path] = value
            return
        children = _children(value)
        first = next(children, None)
        if first is None or depth >= _MAX_DEPTH or id(value) in self.above:
            self._left(path, describe(value), unread=_is_unread(value))
            return
        self.again += id(value) in self.seen
        if self.again == _MAX_AGAIN:
            message = f"the file's values hold each other over and over: more than {_MAX_AGAIN} were met again"
            self.anomalies.append(Anomaly("tensor.limit", message))
            return
        self.seen.add(id(value))
        self.above.add(id(value))
        for key, child in chain((first,), children):
            below = key if not path else f"{path}.{key}" if key else path
            self.visit(child, below, depth + 1)
            if self.nodes >= self.most:
                break
        self.above.discard(id(value))

    def _beside(self, path: str, value: Value) -> None:
        """Keep something that stands beside the state dict, not in it."""
        if value is None or type(value) in (bool, int, float, str):
            self.scalars[path] = value
        else:
            self._left(path, describe(value))

    def _left(self, path: str, what: str, *, unread: bool = False) -> None:
        if unread or len(self.leftovers) < _MAX_LEFTOVERS:
            self.leftovers[path] = Leftover(path, what, unread)

    def _tensor(self, call: Call, name: str) -> None:
        try:
            tensor = tensor_of(name, call, self.storages)
        except BadTensor as bad:
            self.anomalies.append(Anomaly(bad.rule, bad.message, None, call.offset))
            return
        if tensor is None:
            self._left(name, describe(call), unread=True)
        elif name in self.tensors:
            message = f"two tensors have the name {name!r:.100}"
            self.anomalies.append(Anomaly("tensor.name-collision", message, None, call.offset))
        else:
            self.tensors[name] = tensor
            if tensor.nbytes > max(_EXPANSION, 16 * tensor.storage.nbytes):
                message = f"{name}: {tensor.storage.nbytes} bytes are expanded to {tensor.nbytes}"
                self.anomalies.append(Anomaly("tensor.expansion", message, None, call.offset))


def describe(value: Value) -> str:
    """What *value* is, in a few words."""
    if type(value) is Call:
        what = "a call of" if value.opcode == "REDUCE" else "an object of class"
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


def _is_tensor(value: Value) -> bool:
    return type(value) is Call and rebuilds_tensor(value) is not None


def _is_unread(value: Value) -> bool:
    """Whether *value* is a tensor of a sort that is not read here."""
    if type(value) is not Call or type(value.callee) is not Global:
        return False
    module, name = value.callee.module, value.callee.name
    return (module == "torch._utils" and name.startswith("_rebuild_")) or name == "_load_from_bytes"


def _is_dict(value: Value) -> bool:
    if type(value) is Dict:
        return True
    return (
        type(value) is Call and type(value.callee) is Global and (value.callee.module, value.callee.name) in _DICT_TYPES
    )


def _holds_tensors(value: Value) -> bool:
    """Whether *value* is a dict with a tensor in it, or in a dict in it."""
    if not _is_dict(value) and not _module_state(value):
        return False
    for _, child in _children(value):
        if _is_tensor(child) or (_is_dict(child) and any(_is_tensor(v) for _, v in _children(child))):
            return True
    return False


def _children(value: Value) -> Iterator[tuple[str, Value]]:
    """What stands directly below *value*, with the part that it adds to the path."""
    state = _module_state(value)
    if state is not None:
        for part in _MODULE_PARTS:
            if part in state:
                yield "", state.pop(part)
        for key, child in state.items():
            if _is_tensor(child):
                yield key, child
    elif _is_dict(value):
        yield from _entries(value)
    elif type(value) in (list, tuple):
        for index, child in enumerate(value):
            yield str(index), child


def _module_state(value: Value) -> dict[str, Value] | None:
    """The attributes of a pickled ``torch.nn.Module``, known by its parts and not by its class."""
    if type(value) is not Call or not value.states or type(value.states[-1]) is not Dict:
        return None
    state = dict(_entries(value.states[-1]))
    return state if "_parameters" in state and "_modules" in state else None


def _entries(value: Value) -> Iterator[tuple[str, Value]]:
    """The items of a dict as Python would hold them (the last of equal keys), with keys as text."""
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
    if any(key is PLAIN for key, _ in pairs):
        yield "...", PLAIN


def _is_name(key: Value) -> bool:
    """Whether a dict's key can be part of a tensor's name; only flat keys, so that hashing them is cheap."""
    if type(key) is tuple:
        return len(key) <= 8 and all(type(part) in (str, int) for part in key)
    return key is None or type(key) in (str, int, float, bool)
