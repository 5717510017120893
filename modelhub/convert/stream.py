"""The bytes of a planned tensor, whatever it takes to have them: in order, or moved, turned, negated, cast."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from modelhub.container.storages import StorageSource
from modelhub.convert.base import Piece, PlannedTensor
from modelhub.convert.gather import gather, needs_gathering
from modelhub.errors import ChangedDuringRead, Malformed, UnsupportedLayout
from modelhub.source import LocalSource, Source
from modelhub.tensors import DType, TensorInfo

BLOCK = 1 << 18
"""Bytes read and written at a time: 256 KiB to 1 MiB are as fast where memory is at hand, 4 MiB slower. Of large writes
Linux makes large pages of its cache, which took up to five times as long on a virtual machine."""

_SIGN = bytes(byte ^ 0x80 for byte in range(256))
"""For :meth:`bytes.translate`: the top bit of each byte turned over."""


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes that are copied as they lie: *nbytes* of *source* from *start* on, to *offset* within the tensor."""

    source: Source
    start: int
    nbytes: int
    offset: int


def runs(planned: PlannedTensor) -> tuple[Run, ...] | None:
    """The runs of bytes that *planned* is made of, in order; ``None`` when some of its bytes must change or move."""
    found: list[Run] = []
    offset = 0
    for piece in planned.pieces:
        tensor = piece.tensor
        if not lies_ready(tensor, planned.dtype):
            return None
        found.append(Run(piece.source, tensor.start, tensor.nbytes, offset))
        offset += tensor.nbytes
    return tuple(found)


def lies_in_files(planned: PlannedTensor) -> bool:
    """Whether what *planned* is made of lies in files of this machine: any thread may read it then, since nothing is
    unpacked on the way."""
    return all(isinstance(piece.source, LocalSource) for piece in planned.pieces)


def lies_ready(tensor: TensorInfo, dtype: DType) -> bool:
    """Whether *tensor*'s bytes in its file are those of its elements as *dtype*, C-ordered and little-endian."""
    return tensor.dtype is dtype and not (tensor.conj or tensor.neg or needs_gathering(tensor))


def stream(planned: PlannedTensor, buffer: memoryview | None = None) -> Iterator[tuple[int, memoryview]]:
    """All bytes of *planned*, as ``(offset within the tensor, bytes)``, each once, in bounded memory.

    What lies in order is read into *buffer*, of :data:`BLOCK` bytes: one for many tensors spares the kernel making one
    for each.

    The pieces of one source tensor may come in any order; one is valid until the next is asked for. Raises
    :class:`~modelhub.errors.ChangedDuringRead` where a source has become shorter,
    :class:`~modelhub.errors.Malformed` naming the tensor where one does not unpack to what was saved, and
    :class:`~modelhub.errors.ConversionError` naming it for a value that the element type cannot hold.
    """
    begin = 0
    for piece in planned.pieces:
        cast = piece.tensor.dtype is not planned.dtype
        try:
            for offset, data in _cast(piece, planned, buffer) if cast else _values(piece, buffer):
                yield begin + offset, data
        except Malformed as error:
            if not isinstance(piece.source, StorageSource):
                raise
            raise Malformed(f"{error}, of tensor {planned.name!r:.100}", hint="download it again") from error
        begin += piece.tensor.numel * planned.dtype.bits // 8


def _cast(piece: Piece, planned: PlannedTensor, buffer: memoryview | None) -> Iterator[tuple[int, memoryview]]:
    from modelhub.convert.casts import Cast

    cast = Cast(piece.tensor.dtype, planned.dtype, f"{piece.source.name}: tensor {planned.name!r:.100}")
    before, after = piece.tensor.dtype.itemsize, planned.dtype.itemsize
    for offset, data in _values(piece, buffer):
        yield offset // before * after, cast(data)


def _values(piece: Piece, buffer: memoryview | None) -> Iterator[tuple[int, memoryview]]:
    """The bytes of a piece's elements in its own type, with its lazy bits applied."""
    tensor, source = piece.tensor, piece.source
    for offset, data in gather(tensor, source) if needs_gathering(tensor) else _blocks(tensor, source, buffer):
        if tensor.conj:
            _turn_signs(data, tensor.dtype.itemsize, first=tensor.dtype.itemsize)
        if tensor.neg:
            negate(data, tensor.dtype)
        yield offset, data


def _blocks(tensor: TensorInfo, source: Source, buffer: memoryview | None) -> Iterator[tuple[int, memoryview]]:
    if buffer is None:
        buffer = memoryview(bytearray(min(BLOCK, tensor.nbytes)))
    for offset in range(0, tensor.nbytes, BLOCK):
        block = buffer[: min(BLOCK, tensor.nbytes - offset)]
        if source.readinto_at(tensor.start + offset, block) != len(block):
            raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
        yield offset, block


def can_negate(dtype: DType) -> bool:
    """Whether :func:`negate` knows *dtype*: integers, and what has a sign bit of its own."""
    return dtype.is_float or dtype.is_complex or dtype in _INTEGERS


def negate(data: memoryview, dtype: DType) -> None:
    """Negate little-endian elements of *dtype* in place: a float by its sign bit, an integer modulo its size."""
    if dtype in _INTEGERS:
        unit = dtype.itemsize
        mask = (1 << dtype.bits) - 1
        values = array("BHxIxxxQ"[unit - 1], bytes(data))
        data[:] = memoryview(array(values.typecode, [-v & mask for v in values])).cast("B")
    elif dtype.is_complex:
        _turn_signs(data, dtype.itemsize // 2, first=dtype.itemsize // 2)
    elif dtype.is_float:
        _turn_signs(data, dtype.itemsize, first=dtype.itemsize)
    else:
        raise UnsupportedLayout(f"elements of type {dtype.torch_name} cannot be negated")


_INTEGERS = frozenset({DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64, DType.U64})


def _turn_signs(data: memoryview, every: int, *, first: int) -> None:
    """Turn over the sign bit of the numbers whose last bytes are at *first* - 1 and *every* bytes further on."""
    data[first - 1 :: every] = bytes(data[first - 1 :: every]).translate(_SIGN)
