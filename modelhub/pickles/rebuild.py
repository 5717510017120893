"""From the calls that rebuild torch tensors to tensors, every number checked against the bytes that are there.

Source of the signatures: torch 2.13 ``torch/_utils.py`` (``_rebuild_*``) and ``torch/serialization.py`` (persistent
ids).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelhub.pickles.values import PLAIN, Call, Dict, Global, Persistent, Value
from modelhub.tensors import DTYPE_BY_TORCH, DType, StorageRef, TensorInfo

MAX_RANK = 64
MAX_NUMEL = 1 << 50

_TYPED_STORAGES = {
    "FloatStorage": DType.F32,
    "DoubleStorage": DType.F64,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "LongStorage": DType.I64,
    "IntStorage": DType.I32,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
    "ComplexFloatStorage": DType.C64,
    "ComplexDoubleStorage": DType.C128,
    "QInt8Storage": DType.QI8,
    "QUInt8Storage": DType.QU8,
    "QInt32Storage": DType.QI32,
}
_UNTYPED_STORAGES = {"UntypedStorage", "_UntypedStorage"}
_STORAGE_MODULES = {"torch", "torch.cuda", "torch.storage"}
_REBUILDS = frozenset({"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"})
_FUNCTIONS = {
    **dict.fromkeys(_REBUILDS, "torch._utils"),
    "_rebuild_parameter": "torch._utils",
    "_rebuild_parameter_with_state": "torch._utils",
    "_rebuild_from_type_v2": "torch._tensor",
    "Parameter": "torch.nn.parameter",
    "Buffer": "torch.nn.parameter",
}


class StorageDeclaration(NamedTuple):
    """A torch storage that a persistent id asks for.

    ``dtype`` is its element type, ``None`` when untyped (``numel`` is then in bytes); ``view`` is the legacy format's
    ``(view key, offset in elements, elements)`` when the persistent id asks for a part of storage ``key``; ``offset``
    is where in the pickle the id was asked for.
    """

    key: str
    dtype: DType | None
    numel: int
    location: str
    offset: int
    view: tuple[str, int, int] | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * (self.dtype.itemsize if self.dtype else 1)


class BadTensor(Exception):
    """A tensor's description does not fit the bytes that are there; ``rule`` is the anomaly's."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message


def is_count(value: Value) -> bool:
    """Whether *value* is an integer of at least 0 (a truth value is not)."""
    return type(value) is int and value >= 0


def declaration_of(persistent: Persistent) -> StorageDeclaration | None:
    """The storage that *persistent* asks for, ``None`` when it is not torch's ``('storage', ...)`` tuple.

    It is read once, and kept with *persistent*: each storage is asked about by several readers.
    """
    if not persistent.read:
        persistent.declaration = _read_declaration(persistent)
        persistent.read = True
    declared: StorageDeclaration | None = persistent.declaration
    return declared


def _read_declaration(persistent: Persistent) -> StorageDeclaration | None:
    pid = persistent.pid
    if persistent.text or type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        return None
    _, storage_type, key, location, numel = pid[:5]
    if type(storage_type) is not Global or storage_type.module not in _STORAGE_MODULES:
        return None
    if storage_type.name not in _TYPED_STORAGES and storage_type.name not in _UNTYPED_STORAGES:
        return None
    if type(key) is not str or type(location) is not str or not is_count(numel):
        return None
    view = pid[5] if len(pid) == 6 else None
    if view is not None and not (
        type(view) is tuple
        and len(view) == 3
        and type(view[0]) is str
        and is_count(view[1])
        and is_count(view[2])
        and view[1] + view[2] <= numel
    ):
        return None
    return StorageDeclaration(key, _TYPED_STORAGES.get(storage_type.name), numel, location, persistent.offset, view)


def rebuilds_tensor(call: Call) -> str | None:
    """The name of torch's rebuild function that *call* calls, if it is one that describes a tensor."""
    callee = call.callee
    if type(callee) is Global and _FUNCTIONS.get(callee.name) == callee.module and call.opcode in ("REDUCE", "NEWOBJ"):
        return callee.name
    return None


def tensor_of(name: str, call: Call, storages: Mapping[str, StorageRef]) -> TensorInfo | None:
    """The tensor that *call* would rebuild, ``None`` when it does not rebuild one.

    Raises :class:`BadTensor` when its numbers do not fit its storage.
    """
    args = call.args
    for _ in range(4):
        function = rebuilds_tensor(call)
        if function is None or type(args) is not tuple:
            return None
        if function in _REBUILDS:
            return _tensor(name, function, args, storages)
        if function == "_rebuild_from_type_v2":
            if len(args) != 4 or type(args[0]) is not Global:
                return None
            call = Call(args[0], args[2], None, call.offset, "REDUCE")
        else:
            if not args or type(args[0]) is not Call:
                return None
            call = args[0]
        args = call.args
    return None


def _tensor(name: str, function: str, args: tuple[Value, ...], storages: Mapping[str, StorageRef]) -> TensorInfo | None:
    if len(args) < 4 or type(args[0]) is not Persistent:
        return None
    declared = declaration_of(args[0])
    offset, shape, strides = args[1:4]
    if declared is None or type(shape) is not tuple or type(strides) is not tuple:
        return None
    layout = layout_of(shape, strides) if is_count(offset) else None
    if layout is None:
        raise BadTensor("tensor.geometry", f"{name}: its offset, shape or strides are not counts, or not as many")
    dtype, metadata = _dtype_and_metadata(name, function, args, declared)
    storage = storages.get(declared.key)
    if storage is None:
        raise BadTensor("tensor.missing-storage", f"{name}: its storage {declared.key!r:.40} is not in the file")
    start, length = 0, storage.nbytes
    if declared.view is not None:
        width = declared.dtype.itemsize if declared.dtype else 1
        start, length = declared.view[1] * width, declared.view[2] * width
    width = max(1, dtype.bits // 8)
    numel, reach, contiguous = layout
    if numel > MAX_NUMEL:
        raise BadTensor("tensor.geometry", f"{name}: it claims more than 2^50 elements")
    reach += offset
    if reach * width > length or start + length > storage.nbytes:
        message = f"{name}: it reaches to byte {start + reach * width} of a storage of {storage.nbytes} bytes"
        raise BadTensor("tensor.out-of-bounds", message)
    tensor = TensorInfo(
        name,
        dtype,
        shape,
        storage,
        start + offset * width,
        None if contiguous else strides,
        conj=metadata.get("conj") is True,
        neg=metadata.get("neg") is True,
    )
    return _unpacked(tensor) if dtype is DType.F4 else tensor


class Layout(NamedTuple):
    """What shape and strides come to: elements, elements of storage from the first to the last that is touched (both
    included; 0 without any), and whether they lie in C order without holes (dimensions of size 1 have no say)."""

    numel: int
    reach: int
    contiguous: bool


def layout_of(shape: tuple[Value, ...], strides: tuple[Value, ...]) -> Layout | None:
    """The layout of a tensor; ``None`` when these are not counts, or not equally many, or more than torch allows."""
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        return None
    numel = reach = 1
    contiguous = True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if type(size) is not int or type(stride) is not int or size < 0 or stride < 0:
            return None
        if size != 1:
            contiguous = contiguous and stride == numel
            reach += (size - 1) * stride
            numel *= size
    return Layout(numel, reach, contiguous) if numel else Layout(0, 0, True)


def _dtype_and_metadata(
    name: str, function: str, args: tuple[Value, ...], declared: StorageDeclaration
) -> tuple[DType, dict[str, Value]]:
    """Element type, and the pairs of the trailing metadata dict (``conj``, ``neg``)."""
    dtype = declared.dtype
    extra = 6
    if function == "_rebuild_tensor_v3":
        asked = args[6] if len(args) > 6 else None
        if type(asked) is not Global or asked.module != "torch" or asked.name not in DTYPE_BY_TORCH:
            raise BadTensor("tensor.dtype", f"{name}: its element type {asked!r:.60} is not known")
        dtype = DTYPE_BY_TORCH[asked.name]
        extra = 7
    if dtype is None:
        raise BadTensor("tensor.dtype", f"{name}: its storage has no element type")
    metadata = args[extra] if len(args) > extra else None
    pairs = metadata.pairs if type(metadata) is Dict else ()
    if any(key is PLAIN for key, _ in pairs):
        raise BadTensor("tensor.limit", f"{name}: it lies behind too much else for its flags to be known")
    return dtype, {key: value for key, value in pairs if type(key) is str}


def _unpacked(tensor: TensorInfo) -> TensorInfo:
    """torch packs two F4 elements into one byte-sized element; safetensors counts them apart."""
    if not tensor.contiguous or not tensor.shape:
        raise BadTensor("tensor.geometry", f"{tensor.name}: a strided tensor of packed 4-bit elements")
    shape = (*tensor.shape[:-1], tensor.shape[-1] * 2)
    return TensorInfo(tensor.name, tensor.dtype, shape, tensor.storage, tensor.offset)
