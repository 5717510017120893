"""Storages as pickles ask for them, and tensors over them, every number checked against the bytes that are there.

Source of the signatures: torch 2.13 ``torch/_utils.py`` (``_rebuild_*``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from modelhub.pickles.declaration import declaration_of, is_count
from modelhub.pickles.values import PLAIN, Call, Dict, Global, Persistent, Value
from modelhub.tensors import DTYPE_BY_TORCH, DType, StorageRef, Structure, TensorInfo

MAX_RANK = 64
MAX_NUMEL = 1 << 50

REBUILDS = frozenset({"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"})
"""Functions of ``torch._utils`` that make a tensor of a storage, an offset, a shape and strides."""


class Elements(NamedTuple):
    """A storage as a tensor sees it: ``nbytes`` of *storage* from byte ``start`` on, of one type if it has one."""

    dtype: DType | None
    storage: StorageRef
    start: int
    nbytes: int


class Surroundings:
    """What a loader of a pickle has at hand beside the pickle itself.

    ``storages`` are what its persistent ids ask for by key, ``tensors`` what those of tar files do; ``nested`` finds
    the storage in bytes that are handed to ``torch.storage._load_from_bytes``. ``unpacked`` is the pickle itself where
    it does not lie plainly in the file. ``encoded`` has the bytes of short texts by identity, since many arrays may
    share one.
    """

    __slots__ = ("encoded", "nested", "storages", "tensors", "unpacked")

    def __init__(
        self,
        storages: Mapping[str, StorageRef],
        tensors: Mapping[str, TensorInfo] | None = None,
        nested: Callable[[Call], Elements | None] | None = None,
        unpacked: StorageRef | None = None,
    ) -> None:
        self.storages = storages
        self.tensors = tensors or {}
        self.nested = nested
        self.unpacked = unpacked
        self.encoded: dict[int, bytes | None] = {}

    def given(self, value: Value) -> TensorInfo | None:
        """The tensor that *value*, a persistent id, asks for; its name is not the one that it has in the object."""
        return self.tensors.get(value.pid) if type(value) is Persistent and type(value.pid) is str else None


class BadTensor(Exception):
    """A tensor's description does not fit the bytes that are there; ``rule`` is the anomaly's."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message


class Composite(Exception):
    """A tensor whose elements do not lie in the file: what it is, in words, and what there is instead."""

    def __init__(self, description: str, structure: Structure | None = None) -> None:
        super().__init__(description)
        self.description = description
        self.structure = structure


def elements_of(value: Value, around: Surroundings, name: str) -> Elements | None:
    """The storage object that *value* is, ``None`` when it is none.

    Raises :class:`BadTensor` when the file does not have it.
    """
    if type(value) is Call and around.nested is not None:
        return around.nested(value)
    declared = declaration_of(value) if type(value) is Persistent else None
    if declared is None:
        return None
    storage = around.storages.get(declared.key)
    if storage is None:
        raise BadTensor("tensor.missing-storage", f"{name}: its storage {declared.key!r:.40} is not in the file")
    if declared.view is None:
        return Elements(declared.dtype, storage, 0, storage.nbytes)
    width = declared.dtype.itemsize if declared.dtype else 1
    start, nbytes = declared.view[1] * width, declared.view[2] * width
    if start + nbytes > storage.nbytes:
        message = f"{name}: it reaches to byte {start + nbytes} of a storage of {storage.nbytes} bytes"
        raise BadTensor("tensor.out-of-bounds", message)
    return Elements(declared.dtype, storage, start, nbytes)


def sizes_of(value: Value) -> tuple[Value, ...] | None:
    """The numbers of a shape: a tuple, or a ``torch.Size`` of one."""
    if type(value) is Call and type(value.callee) is Global and value.callee.qualified == "torch.Size":
        value = value.args[0] if type(value.args) is tuple and len(value.args) == 1 else None
    return tuple(value) if type(value) in (tuple, list) else None


def count_of(name: str, shape: tuple[int, ...]) -> int:
    """Elements of a tensor of *shape*. Raises :class:`BadTensor` where they are more than can be."""
    numel = 1
    for size in shape:
        numel *= size
        if numel > MAX_NUMEL:
            raise BadTensor("tensor.geometry", f"{name}: it claims more than 2^50 elements")
    return numel


def plain_tensor(name: str, function: str, args: tuple[Value, ...], around: Surroundings) -> TensorInfo | None:
    """The tensor that torch's *function*, one of :data:`REBUILDS`, makes of *args*; ``None`` when it makes none."""
    if len(args) < 4:
        return None
    elements = elements_of(args[0], around, name)
    shape, strides = sizes_of(args[2]), sizes_of(args[3])
    if elements is None or shape is None or strides is None:
        return None
    dtype, metadata = _dtype_and_metadata(name, function, args, elements.dtype)
    tensor = placed(name, dtype, elements, (args[1], shape, strides))
    conj, neg = metadata.get("conj") is True, metadata.get("neg") is True
    return tensor._replace(conj=conj, neg=neg) if conj or neg else tensor


def placed(
    name: str, dtype: DType, elements: Elements, geometry: tuple[Value, tuple[Value, ...], tuple[Value, ...]]
) -> TensorInfo:
    """The tensor with *geometry* (offset, shape, strides, in elements of type *dtype*) in *elements*.

    Raises :class:`BadTensor` unless these are numbers that fit the bytes that are there.
    """
    offset, shape, strides = geometry
    layout = layout_of(shape, strides) if is_count(offset) else None
    if layout is None:
        raise BadTensor("tensor.geometry", f"{name}: its offset, shape or strides are not counts, or not as many")
    numel, reach, contiguous = layout
    if numel > MAX_NUMEL:
        raise BadTensor("tensor.geometry", f"{name}: it claims more than 2^50 elements")
    width = max(1, dtype.bits // 8)
    reach += offset
    if reach * width > elements.nbytes:
        end, length = elements.start + reach * width, elements.storage.nbytes
        raise BadTensor("tensor.out-of-bounds", f"{name}: it reaches to byte {end} of a storage of {length} bytes")
    start = elements.start + offset * width
    tensor = TensorInfo(name, dtype, shape, elements.storage, start, None if contiguous else strides)
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
    name: str, function: str, args: tuple[Value, ...], dtype: DType | None
) -> tuple[DType, dict[str, Value]]:
    """Element type, and the pairs of the trailing metadata dict (``conj``, ``neg``)."""
    extra = 6
    if function == "_rebuild_tensor_v3":
        dtype = dtype_of(args[6]) if len(args) > 6 else None
        if dtype is None:
            asked = args[6] if len(args) > 6 else "missing"
            raise BadTensor("tensor.dtype", f"{name}: its element type {asked!r:.60} is not known")
        extra = 7
    if dtype is None:
        raise BadTensor("tensor.dtype", f"{name}: its storage has no element type")
    metadata = args[extra] if len(args) > extra else None
    pairs = metadata.pairs if type(metadata) is Dict else ()
    if any(key is PLAIN for key, _ in pairs):
        raise BadTensor("tensor.limit", f"{name}: it lies behind too much else for its flags to be known")
    return dtype, {key: value for key, value in pairs if type(key) is str}


def dtype_of(value: Value) -> DType | None:
    """The element type that ``torch.<name>`` names."""
    return DTYPE_BY_TORCH.get(value.name) if type(value) is Global and value.module == "torch" else None


def _unpacked(tensor: TensorInfo) -> TensorInfo:
    """torch packs two F4 elements into one byte-sized element; safetensors counts them apart."""
    if not tensor.contiguous or not tensor.shape:
        raise BadTensor("tensor.geometry", f"{tensor.name}: a strided tensor of packed 4-bit elements")
    shape = (*tensor.shape[:-1], tensor.shape[-1] * 2)
    return TensorInfo(tensor.name, tensor.dtype, shape, tensor.storage, tensor.offset)
