"""A pickle writer that names what is to be imported and called without having it.

It writes protocol 2, opcode for opcode as CPython's own pickler does, which is what ``torch.save`` uses. Classes
and functions are :class:`Import`, objects made by calling them :class:`Call`: neither has to exist here, and
nothing is imported or called.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelhub.samples.weights import Storage, Weight
from modelhub.tensors import DType

_BATCH = 1000  # items between MARK and SETITEMS or APPENDS, as in CPython's pickler


@dataclass(frozen=True, slots=True)
class Import:
    """A class or function: ``GLOBAL module name``."""

    module: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The object that ``callee(*args)`` gives (``REDUCE``), or ``callee.__new__(callee, *args)`` (``NEWOBJ``).

    It is then given the items *pairs* (SETITEMS) and, unless it is ``None``, handed *state* (BUILD).
    """

    callee: Any
    args: tuple[Any, ...] = ()
    pairs: Mapping[Any, Any] = field(default_factory=dict)
    state: Any = None
    new: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """What the loader supplies for the persistent id *pid* (``BINPERSID``)."""

    pid: Any


def parameter(weight: Weight) -> Call:
    """*weight* as a ``torch.nn.Parameter``."""
    return Call(_REBUILD_PARAMETER, (weight, True, OrderedDict()))


PersistentId = Callable[[Storage, Import, int], tuple[Any, ...]]
"""From a storage, its torch class and its length in that class's elements to its persistent id."""


def dumps(value: Any, persistent_id: PersistentId | None = None, *, before: Iterable[Any] = ()) -> bytes:
    """*value* as a pickle of protocol 2, which first makes the values *before* and drops them.

    *value* is built of ``None``, numbers, strings, bytes, lists, tuples, dicts (also ordered), :class:`Import`,
    :class:`Call`, :class:`Persistent` and, where a *persistent_id* stands for their storages, :class:`Weight`. Raises
    ``TypeError`` for anything else.
    """
    writer = _Writer(persistent_id)
    writer.out += b"\x80\x02"
    for dropped in before:
        writer.save(dropped)
        writer.out += b"0"
    writer.save(value)
    writer.out += b"."
    return bytes(writer.out)


class _Writer:
    def __init__(self, persistent_id: PersistentId | None) -> None:
        self.out = bytearray()
        self._persistent_id = persistent_id
        self._memo: dict[Any, int] = {}
        self._alive: list[Any] = []  # what the memo knows by id() must not be freed and its id reused

    def save(self, value: Any) -> None:
        if value is None:
            self.out += b"N"
        elif isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.out += _integer(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, tuple) and not value:
            self.out += b")"
        elif not self._recall(value):
            self._save_new(value)

    def _save_new(self, value: Any) -> None:
        match value:
            case str():
                data = value.encode("utf-8", "surrogatepass")
                self.out += b"X" + struct.pack("<I", len(data)) + data
                self._remember(value)
            case bytes():
                self._save_call(value, _bytes(value))
            case tuple():
                self._save_tuple(value)
            case list():
                self.out += b"]"
                self._remember(value)
                self._save_items(value)
            case OrderedDict():
                self._save_call(value, Call(_ORDERED_DICT, pairs=value))
            case dict():
                self.out += b"}"
                self._remember(value)
                self._save_pairs(list(value.items()))
            case Import():
                self.out += f"c{value.module}\n{value.name}\n".encode()
                self._remember(value)
            case Call():
                self._save_call(value, value)
            case Persistent():
                self.save(value.pid)
                self.out += b"Q"
            case Weight():
                self._save_call(value, _rebuild(value))
            case Storage():
                self._save_storage(value)
            case _:
                raise TypeError(f"cannot pickle a {type(value).__name__}")

    def _save_tuple(self, value: tuple[Any, ...]) -> None:
        if len(value) > 3:
            self.out += b"("
        for item in value:
            self.save(item)
        self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value), b"t")
        self._remember(value)

    def _save_call(self, value: Any, call: Call) -> None:
        """Write *call* and remember its result as *value*."""
        self.save(call.callee)
        self.save(call.args)
        self.out += b"\x81" if call.new else b"R"
        self._remember(value)
        self._save_iterated_pairs(list(call.pairs.items()))
        if call.state is not None:
            self.save(call.state)
            self.out += b"b"

    def _save_items(self, items: list[Any]) -> None:
        """A list's items: APPEND for a single one, else APPENDS for every thousand."""
        if len(items) == 1:
            self.save(items[0])
            self.out += b"a"
            return
        for at in range(0, len(items), _BATCH):
            self.out += b"("
            for item in items[at : at + _BATCH]:
                self.save(item)
            self.out += b"e"

    def _save_pairs(self, pairs: list[tuple[Any, Any]]) -> None:
        """A dict's items: SETITEM for a single one, else SETITEMS for every thousand and for what is left.

        Nothing may be left: CPython then writes a group of none.
        """
        if len(pairs) == 1:
            self._save_group(pairs)
        elif pairs:
            for at in range(0, len(pairs) + 1, _BATCH):
                self.out += b"("
                self._save_group(pairs[at : at + _BATCH], many=True)

    def _save_iterated_pairs(self, pairs: list[tuple[Any, Any]]) -> None:
        """The items of a dict that makes itself by a call: here CPython uses SETITEM for any lone item."""
        for at in range(0, len(pairs), _BATCH):
            group = pairs[at : at + _BATCH]
            if len(group) > 1:
                self.out += b"("
            self._save_group(group, many=len(group) > 1)

    def _save_group(self, pairs: list[tuple[Any, Any]], *, many: bool = False) -> None:
        for key, value in pairs:
            self.save(key)
            self.save(value)
        self.out += b"u" if many else b"s"

    def _save_storage(self, storage: Storage) -> None:
        if self._persistent_id is None:
            raise TypeError("a pickle without persistent ids cannot hold a tensor")
        name = STORAGE_CLASSES.get(storage.dtype)
        if name is None:
            pid = self._persistent_id(storage, Import("torch.storage", "UntypedStorage"), storage.nbytes)
        else:
            pid = self._persistent_id(storage, Import("torch", name), storage.numel)
        self.save(pid)
        self.out += b"Q"

    def _recall(self, value: Any) -> bool:
        index = self._memo.get(_memo_key(value))
        if index is None:
            return False
        self.out += bytes((0x68, index)) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def _remember(self, value: Any) -> None:
        index = len(self._memo)
        self._memo[_memo_key(value)] = index
        self._alive.append(value)
        self.out += bytes((0x71, index)) if index < 256 else b"r" + struct.pack("<I", index)


def _memo_key(value: Any) -> Any:
    """Strings and imports are the same when they are equal, everything else when it is one object."""
    return value if isinstance(value, str | Import) else id(value)


def _bytes(value: bytes) -> Call:
    """Protocol 2 has no bytes: they travel as text of the first 256 characters, and back by a call."""
    if not value:
        return Call(Import("__builtin__", "bytes"))
    return Call(Import("_codecs", "encode"), (value.decode("latin-1"), "latin1"))


def _integer(value: int) -> bytes:
    if 0 <= value < 0x100:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 0x10000:
        return b"M" + struct.pack("<H", value)
    if -0x80000000 <= value < 0x80000000:
        return b"J" + struct.pack("<i", value)
    magnitude = value if value >= 0 else ~value
    data = value.to_bytes(magnitude.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(data),)) + data


_ORDERED_DICT = Import("collections", "OrderedDict")
_REBUILD_TENSOR = Import("torch._utils", "_rebuild_tensor_v2")
_REBUILD_TENSOR_OF_DTYPE = Import("torch._utils", "_rebuild_tensor_v3")
_REBUILD_PARAMETER = Import("torch._utils", "_rebuild_parameter")

STORAGE_CLASSES = {  # the types that torch has a storage class for; the rest are stored untyped
    DType.F16: "HalfStorage",
    DType.BF16: "BFloat16Storage",
    DType.F32: "FloatStorage",
    DType.F64: "DoubleStorage",
    DType.I64: "LongStorage",
    DType.I32: "IntStorage",
    DType.I16: "ShortStorage",
    DType.I8: "CharStorage",
    DType.U8: "ByteStorage",
    DType.BOOL: "BoolStorage",
    DType.C64: "ComplexFloatStorage",
    DType.C128: "ComplexDoubleStorage",
}


def _rebuild(weight: Weight) -> Call:
    """The call by which torch makes a tensor from its storage (``Tensor._reduce_ex_internal``)."""
    strides = contiguous_strides(weight.shape) if weight.strides is None else weight.strides
    geometry = ((*weight.shape,), (*strides,))  # made anew as torch does: the memo never meets them again
    args: tuple[Any, ...] = (weight.storage, weight.offset, *geometry, weight.requires_grad, OrderedDict())
    if weight.dtype in STORAGE_CLASSES:
        return Call(_REBUILD_TENSOR, args)
    return Call(_REBUILD_TENSOR_OF_DTYPE, (*args, Import("torch", weight.dtype.torch_name)))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """torch's strides, in elements, of a tensor in C order."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
