"""Torch's storages, as persistent ids ask for them.

Source: torch 2.13 ``torch/serialization.py`` (``persistent_id`` of ``_save`` and ``_legacy_save``).
"""

from __future__ import annotations

from typing import NamedTuple

from modelhub.pickles.values import Global, Persistent, Value
from modelhub.tensors import DType

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
    dtype = storage_dtype(storage_type)
    if dtype is None and not _is_untyped(storage_type):
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
    return StorageDeclaration(key, dtype, numel, location, persistent.offset, view)


def storage_dtype(value: Value) -> DType | None:
    """The element type of the typed storages whose class *value* is, ``None`` when it is not such a class."""
    known = type(value) is Global and value.module in _STORAGE_MODULES
    return _TYPED_STORAGES.get(value.name) if known else None


def _is_untyped(value: Value) -> bool:
    return type(value) is Global and value.module in _STORAGE_MODULES and value.name in _UNTYPED_STORAGES
