"""From the trace of a state dict to its tensors, by name.

The value a pickle describes is a tree (really a graph) of dicts, lists and objects. Its tensors are named by the path
to them, joined by dots, after the wrapper that trainers put around a state dict has been taken off. What stands beside
them is kept as scalars or listed as leftovers: nothing is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.pickles.arrays import scalar_of
from modelhub.pickles.declaration import StorageDeclaration, declaration_of
from modelhub.pickles.elements import BadTensor, Composite, Surroundings
from modelhub.pickles.rebuild import is_tensor, tensor_of
from modelhub.pickles.trace import Trace
from modelhub.pickles.tree import beside_module, breadth, children, describe, entries, is_dict, module_state, states_of
from modelhub.pickles.values import PLAIN, Call, Dict, Global, Persistent, Value
from modelhub.tensors import Leftover, Scalar, StateDict, Structure, TensorInfo

WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
"""Keys under which trainers put the state dict, in the order in which they are tried (spandrel's order)."""

_MAX_NODES = 200_000
_MAX_PLAIN_NODES = 10_000  # where nothing is called, there can be no tensor
_MAX_AGAIN = 20_000
_AGAIN_AS_ONE = 64  # parts of a value that is met again: as many more count as one more value
_MAX_DEPTH = 64
_MAX_LEFTOVERS = 10_000
_EXPANSION = 1 << 28


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


def read_state_dict(trace: Trace, around: Surroundings) -> TensorReading:
    """The tensors of *trace*'s result, bounds-checked against what its loader has *around*.

    A tensor whose numbers do not fit its storage is left out and told as an anomaly ``tensor.*``.
    """
    anomalies = list(_conflicts(trace))
    if not trace.stopped:
        return TensorReading(None, tuple(anomalies))
    walk = _Walk(around, _MAX_NODES if trace.calls or around.tensors else _MAX_PLAIN_NODES)
    root, wrapper = walk.unwrap(trace.result)
    walk.visit(root, None, 0)
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

    def __init__(self, around: Surroundings, most: int) -> None:
        self.around = around
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
            items = dict(entries(root)) if is_dict(root) else {}
            inner = next((k for k in WRAPPERS if self._holds_tensors(items.get(k))), None)
            if inner is None or (path and path[-1] != inner) or items[inner] is root:
                break
            if path and any(map(self._is_tensor, items.values())):
                break  # a state dict that also holds another one under its own wrapper's name
            for key, value in items.items():
                if key != inner:
                    self._beside(".".join([*path, key]), value)
            path.append(inner)
            root = items[inner]
        return root, tuple(path)

    def _holds_tensors(self, value: Value) -> bool:
        """Whether *value* is a dict with a tensor in it, or in a dict in it."""
        if not is_dict(value) and not module_state(value):
            return False
        for _, child in children(value):
            if self._is_tensor(child) or (is_dict(child) and any(self._is_tensor(v) for _, v in children(child))):
                return True
        return False

    def _is_tensor(self, value: Value) -> bool:
        return self.around.given(value) is not None if type(value) is Persistent else is_tensor(value)

    def visit(self, value: Value, path: str | None, depth: int) -> None:
        """Take up *value*, which stands at *path* (``None``: it is all there is), and everything below it."""
        if self.nodes >= self.most or self.again >= _MAX_AGAIN:
            return
        self.nodes += 1
        if self.nodes == _MAX_NODES:
            message = f"the file describes more than {_MAX_NODES} values: the rest was not looked at for tensors"
            self.anomalies.append(Anomaly("tensor.many", message))
        elif self.nodes == self.most:
            self._left("...", describe(PLAIN))
            return
        if self._is_tensor(value):
            self._tensor(value, "tensor" if path is None else path)
            self._attributes(value, "tensor" if path is None else path)
            return
        name = path or ""
        plain = _plain(value)
        if plain is not None:
            self._scalar(name, plain[0])
            return
        if id(value) in self.seen:
            self.again += -(-breadth(value) // _AGAIN_AS_ONE)
            if self.again >= _MAX_AGAIN:
                message = f"the file's values hold each other over and over: more than {_MAX_AGAIN} were met again"
                self.anomalies.append(Anomaly("tensor.limit", message))
                return
        self.seen.add(id(value))
        below = children(value)
        first = next(below, None)
        if first is None or depth >= _MAX_DEPTH or id(value) in self.above:
            self._left(name, describe(value), unread=_is_unread(value))
            return
        self.above.add(id(value))
        for key, child in chain((first,), below):
            self.visit(child, _joined(path, key), depth + 1)
            if self.nodes >= self.most:
                break
        self.above.discard(id(value))
        state = module_state(value)
        for key, what in beside_module(state) if state is not None else ():
            self._left(_joined(path, key), what)

    def _beside(self, path: str, value: Value) -> None:
        """Keep something that stands beside the state dict, not in it."""
        plain = _plain(value)
        if plain is not None:
            self._scalar(path, plain[0])
        else:
            self._left(path, describe(value))

    def _scalar(self, path: str, value: Scalar) -> None:
        if path in self.scalars:
            self._left(path, f"another value of that name, {describe(value)}")
        else:
            self.scalars[path] = value

    def _left(self, path: str, what: str, *, unread: bool = False, structure: Structure | None = None) -> None:
        if unread or (path not in self.leftovers and len(self.leftovers) < _MAX_LEFTOVERS):
            self.leftovers[path] = Leftover(path, what, unread, structure)

    def _tensor(self, value: Value, name: str) -> None:
        known = self.leftovers.get(name)
        if name in self.tensors or (known is not None and known.unread):
            message = f"two tensors have the name {name!r:.100}"
            self.anomalies.append(Anomaly("tensor.name-collision", message, None, value.offset))
            return
        try:
            if type(value) is Persistent:
                given = self.around.given(value)
                tensor = None if given is None else given._replace(name=name)
            else:
                tensor = tensor_of(name, value, self.around)
        except BadTensor as bad:
            self.anomalies.append(Anomaly(bad.rule, bad.message, None, value.offset))
            return
        except Composite as other:
            self._left(name, other.description, unread=True, structure=other.structure)
            return
        if tensor is None:
            self._left(name, describe(value), unread=True)
        else:
            self.tensors[name] = tensor
            if tensor.nbytes > max(_EXPANSION, 16 * tensor.storage.nbytes):
                message = f"{name}: {tensor.storage.nbytes} bytes are expanded to {tensor.nbytes}"
                self.anomalies.append(Anomaly("tensor.expansion", message, None, value.offset))

    def _attributes(self, value: Value, name: str) -> None:
        """Tell what the tensor *value* has beside its elements; what several have, once."""
        for state in states_of(value):
            if state is None or id(state) in self.seen:
                continue
            self.seen.add(id(state))
            for key, child in entries(state) if type(state) is Dict else (("<state>", state),):
                self._left(_joined(name, key), f"an attribute of the tensor: {describe(child)}")


def _joined(path: str | None, key: str) -> str:
    return key if path is None else f"{path}.{key}"


def _plain(value: Value) -> tuple[Scalar] | None:
    """The plain value, in a tuple, that *value* is, be it one of numpy's."""
    if value is None or type(value) in (bool, int, float, str):
        return (value,)
    return scalar_of(value) if type(value) is Call else None


def _is_unread(value: Value) -> bool:
    """Whether *value* hands bytes to torch, which may be a tensor of a sort that is not read here."""
    return type(value) is Call and type(value.callee) is Global and value.callee.name == "_load_from_bytes"
