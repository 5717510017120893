"""What a model file says about its tensors, without any of their data.

These are plain frozen values: no numpy, no torch. A :class:`TensorInfo` says where a tensor's bytes lie in its file
(:class:`StorageRef`) and how to read them; a :class:`StateDict` is the mapping of names to tensors together with
everything else that stood beside them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Scalar = bool | int | float | str | None


class DType(enum.Enum):
    """Element type: its safetensors name, size in bits, torch name.

    Names and sizes are those of safetensors 0.8 (``Dtype`` in ``tensor.rs``); the members after ``U64`` have no
    safetensors counterpart (:attr:`storable` is false).
    """

    BOOL = ("BOOL", 8, "bool")
    F4 = ("F4", 4, "float4_e2m1fn_x2")
    U8 = ("U8", 8, "uint8")
    I8 = ("I8", 8, "int8")
    F8_E5M2 = ("F8_E5M2", 8, "float8_e5m2")
    F8_E4M3 = ("F8_E4M3", 8, "float8_e4m3fn")
    F8_E8M0 = ("F8_E8M0", 8, "float8_e8m0fnu")
    F8_E4M3FNUZ = ("F8_E4M3FNUZ", 8, "float8_e4m3fnuz")
    F8_E5M2FNUZ = ("F8_E5M2FNUZ", 8, "float8_e5m2fnuz")
    F6_E2M3 = ("F6_E2M3", 6, "")
    F6_E3M2 = ("F6_E3M2", 6, "")
    I16 = ("I16", 16, "int16")
    U16 = ("U16", 16, "uint16")
    F16 = ("F16", 16, "float16")
    BF16 = ("BF16", 16, "bfloat16")
    I32 = ("I32", 32, "int32")
    U32 = ("U32", 32, "uint32")
    F32 = ("F32", 32, "float32")
    C64 = ("C64", 64, "complex64")
    F64 = ("F64", 64, "float64")
    I64 = ("I64", 64, "int64")
    U64 = ("U64", 64, "uint64")
    C128 = ("C128", 128, "complex128")
    C32 = ("C32", 32, "complex32")
    BITS8 = ("BITS8", 8, "bits8")
    QI8 = ("QI8", 8, "qint8")
    QU8 = ("QU8", 8, "quint8")
    QI32 = ("QI32", 32, "qint32")

    def __init__(self, label: str, bits: int, torch_name: str) -> None:
        self.label = label
        self.bits = bits
        self.torch_name = torch_name

    __hash__ = object.__hash__  # that of an enumeration hashes its name, a thousand times for a file

    @property
    def storable(self) -> bool:
        """Whether safetensors has this element type."""
        return self.name not in _NOT_STORABLE

    @property
    def itemsize(self) -> int:
        """Bytes of one element; only for types of whole bytes (not F4, F6)."""
        if self.bits % 8:
            raise ValueError(f"{self.label} elements are not whole bytes")
        return self.bits // 8

    @property
    def is_complex(self) -> bool:
        return self.name in {"C32", "C64", "C128"}

    @property
    def is_float(self) -> bool:
        """A real floating point type of 16 bits or more (what a precision is said of)."""
        return self.name in {"F16", "BF16", "F32", "F64"}


_NOT_STORABLE = frozenset({"C128", "C32", "BITS8", "QI8", "QU8", "QI32"})
DTYPE_BY_LABEL: Mapping[str, DType] = {d.label: d for d in DType}
DTYPE_BY_TORCH: Mapping[str, DType] = {d.torch_name: d for d in DType if d.torch_name}


@dataclass(frozen=True, slots=True)
class Packing:
    """How bytes lie in a file in another form: ``nbytes`` are what they take there.

    ``deflate`` is a raw deflate stream (RFC 1951), as in zip archives; ``text`` is UTF-8 text in which each character
    stands for the byte of its number, as pickles up to protocol 2 write bytes. ``crc`` is the CRC-32 of the unpacked
    bytes, ``None`` where the file has none.
    """

    form: Literal["deflate", "text"]
    nbytes: int
    crc: int | None = None


class StorageRef(NamedTuple):
    """A run of bytes in a file that one or more tensors share.

    ``start`` is the absolute offset in the source of the first byte, ``nbytes`` the length. ``key`` is the
    container's own name of it. A storage that is not :attr:`plain` cannot be range-copied, only read by
    :class:`modelhub.container.storages.Storages`: one with a ``packing`` unpacks to ``nbytes`` bytes; of a short one,
    ``data`` are the bytes themselves and ``start`` says nothing. ``crc`` is the CRC-32 that the file gives of the bytes
    of a plain one, ``None`` where it gives none.
    """

    key: str
    start: int
    nbytes: int
    byteorder: Literal["little", "big"] = "little"
    packing: Packing | None = None
    data: bytes | None = None
    crc: int | None = None

    def __repr__(self) -> str:
        kept = "" if self.data is None else ", kept here"
        return f"StorageRef({self.key!r}, start={self.start}, nbytes={self.nbytes}{kept})"

    @property
    def plain(self) -> bool:
        """Whether the bytes lie in the file as they are."""
        return self.packing is None and self.data is None

    @property
    def end(self) -> int:
        """Absolute offset in the source of the byte after the last one that it takes there; 0 for one kept here."""
        if self.data is not None:
            return 0
        return self.start + (self.packing.nbytes if self.packing is not None else self.nbytes)


class TensorInfo(NamedTuple):
    """A tensor: element type, shape in elements, and where its bytes lie.

    ``offset`` is in bytes from the storage's start; ``strides`` are in elements, ``None`` meaning C-contiguous.
    ``conj``/``neg`` are torch's lazy conjugation and negation bits: set, the stored bytes are not the values.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    storage: StorageRef
    offset: int = 0
    strides: tuple[int, ...] | None = None
    conj: bool = False
    neg: bool = False

    @property
    def numel(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's own data, laid out contiguously."""
        return (self.numel * self.dtype.bits + 7) // 8

    @property
    def start(self) -> int:
        """Absolute offset in the source of the first element's byte."""
        return self.storage.start + self.offset

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in C order without holes (dimensions of size 1 have no say)."""
        if self.strides is None or self.numel == 0:
            return True
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1:
                if stride != expected:
                    return False
                expected *= size
        return True


@dataclass(frozen=True, slots=True)
class SparseTensor:
    """A tensor of *shape* of which only some elements, or blocks, are in the file; the others are zero.

    ``indices`` are the tensors that say where the ``values`` stand: for ``coo`` one of shape (sparse dimensions,
    count), whose repeated columns add up unless it is ``coalesced``; for the compressed layouts (``csr``, ``csc``,
    ``bsr``, ``bsc``) the compressed and the plain indices.
    """

    layout: Literal["coo", "csr", "csc", "bsr", "bsc"]
    shape: tuple[int, ...]
    indices: tuple[TensorInfo, ...]
    values: TensorInfo
    coalesced: bool = False


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A tensor of integers that stand for ``(values - zero_point) * scale``.

    With an ``axis``, ``scale`` and ``zero_point`` are tensors of one element for each index along it.
    """

    values: TensorInfo
    scale: float | TensorInfo
    zero_point: int | TensorInfo
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class BlockTensor:
    """A tensor of *shape* in ggml's quantised blocks of the type *kind* (``"Q4_0"``), which fill ``storage``."""

    kind: str
    shape: tuple[int, ...]
    storage: StorageRef


Structure = SparseTensor | QuantizedTensor | BlockTensor


class Leftover(NamedTuple):
    """Something beside the tensors: where it stood (``"callbacks.0"``) and what it was, in words.

    ``unread`` is true for a tensor among them whose elements do not lie in the file (sparse, quantised, on no device);
    ``structure`` says what does, where its elements can be computed from that.
    """

    path: str
    description: str
    unread: bool = False
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class StateDict(Mapping[str, TensorInfo]):
    """Names to tensors, in file order, and what stood beside them.

    ``wrapper`` is the path that was unwrapped to reach the tensors (``("state_dict",)``), ``scalars`` plain values
    found outside or among them by dotted path (``global_step``), ``leftovers`` everything that is neither,
    ``metadata`` the string pairs of a safetensors header.
    """

    tensors: Mapping[str, TensorInfo]
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> TensorInfo:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shared_groups(self) -> tuple[tuple[str, ...], ...]:
        """Names that look at overlapping bytes of one storage, grouped, in file order."""
        by_storage: dict[tuple[int, str], list[TensorInfo]] = {}
        for tensor in self.tensors.values():
            if tensor.nbytes:
                by_storage.setdefault((tensor.storage.start, tensor.storage.key), []).append(tensor)
        groups: list[tuple[str, ...]] = []
        for tensors in by_storage.values():
            if len(tensors) < 2:
                continue
            run: list[str] = []
            reach = -1
            for tensor in sorted(tensors, key=lambda t: t.offset):
                first, last = _extent(tensor)
                if first < reach:
                    run.append(tensor.name)
                else:
                    if len(run) > 1:
                        groups.append(tuple(run))
                    run = [tensor.name]
                reach = max(reach, last)
            if len(run) > 1:
                groups.append(tuple(run))
        return tuple(groups)


def _extent(tensor: TensorInfo) -> tuple[int, int]:
    """First byte and one past the last byte that *tensor* touches, relative to its storage."""
    if tensor.strides is None:
        return tensor.offset, tensor.offset + tensor.nbytes
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.offset, tensor.offset + (last + 1) * tensor.dtype.bits // 8
