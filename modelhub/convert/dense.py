"""Tensors of which a file holds less than their elements, with all of them: sparse and quantised ones, on request.

Each becomes a source of its own whose bytes are computed where they are read, so that everything else (copying,
casting, comparing) goes on as with bytes that lie in a file. Quantised values become F32 by ``(value - zero point) *
scale``, ggml's blocks by their own arithmetic; a sparse tensor keeps its type, and what it does not say is zero. numpy
computes, imported when it first does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

from modelhub.container.storages import Storages
from modelhub.convert.base import Assembly, Piece, PlannedTensor, file_of
from modelhub.convert.dequantise import DEQUANTISED, dequantised
from modelhub.convert.gather import extent
from modelhub.convert.stream import stream
from modelhub.errors import LimitExceeded, Malformed, MissingExtra, UnsupportedLayout
from modelhub.source import Source
from modelhub.tensors import BlockTensor, DType, Leftover, QuantizedTensor, SparseTensor, StorageRef, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SPARSE = 1 << 24
"""Indices and values of one sparse tensor, which are in memory while it is written."""

_NUMPY = {
    DType.I8: "i1",
    DType.U8: "u1",
    DType.BOOL: "?",
    DType.I16: "i2",
    DType.F16: "f2",
    DType.I32: "i4",
    DType.F32: "f4",
    DType.I64: "i8",
    DType.F64: "f8",
    DType.C64: "c8",
}

Compute = Callable[[int, int], "NDArray[Any]"]


def can_be_dense(left: Leftover) -> bool:
    """Whether :func:`dense` knows all elements of the tensor *left*."""
    if isinstance(left.structure, BlockTensor):
        return left.structure.kind in DEQUANTISED
    return isinstance(left.structure, SparseTensor | QuantizedTensor)


def dense(left: Leftover, storages: Storages) -> Assembly:
    """The tensor *left*, for which :func:`can_be_dense`, with all of its elements.

    Raises :class:`MissingExtra` without numpy, :class:`UnsupportedLayout` for an arrangement that is not computed, and
    :class:`LimitExceeded` for more than :data:`MAX_SPARSE` indices and values. The source raises :class:`Malformed`
    when it is read and indices lead out of the tensor.
    """
    if find_spec("numpy") is None:
        raise MissingExtra("numpy, which computes the elements of sparse and quantised tensors,", "cast")
    if isinstance(left.structure, QuantizedTensor):
        return _quantised(left.path, left.structure, storages)
    if isinstance(left.structure, BlockTensor):
        return _in_blocks(left.path, left.structure, storages)
    assert isinstance(left.structure, SparseTensor)
    return _sparse(left.path, left.structure, storages)


class ComputedSource:
    """Bytes of *count* elements of *item* bytes each that *compute* gives, from one index to another.

    They are computed from the storages *stored* of *file*.
    """

    def __init__(self, file: Source, stored: tuple[StorageRef, ...], count: int, item: int, compute: Compute) -> None:
        self.file = file
        self.stored = stored
        self.name = file.name
        self.size = count * item
        self._item = item
        self._compute = compute

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // self._item, -(-end // self._item)
        data = self._compute(first, last).tobytes()
        return data[offset - first * self._item : end - first * self._item]

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _quantised(name: str, tensor: QuantizedTensor, storages: Storages) -> Assembly:
    source, values = storages.locate(tensor.values)
    item = values.dtype.itemsize
    order = ">" if values.storage.byteorder == "big" else "<"

    def read(first: int, last: int) -> NDArray[Any]:
        import numpy as np

        data = source.read_at(values.start + first * item, (last - first) * item)
        return np.frombuffer(data, order + _NUMPY[values.dtype]).astype("i8")

    if tensor.axis is None:
        assert not isinstance(tensor.scale, TensorInfo) and not isinstance(tensor.zero_point, TensorInfo)
        scale, zero_point = tensor.scale, tensor.zero_point

        def compute(first: int, last: int) -> NDArray[Any]:
            import numpy as np

            return (read(first, last) - zero_point).astype("<f4") * np.float32(scale)

        count, strides = extent(values) // item, values.strides
    else:
        assert isinstance(tensor.scale, TensorInfo) and isinstance(tensor.zero_point, TensorInfo)
        if not values.contiguous:
            raise UnsupportedLayout(f"{source.name}: tensor {name!r:.100} has a scale for each channel and odd strides")
        scales = _Loaded(tensor.scale, storages)
        zero_points = _Loaded(tensor.zero_point, storages)
        channels, inner = values.shape[tensor.axis], prod(values.shape[tensor.axis + 1 :])

        def compute(first: int, last: int) -> NDArray[Any]:
            import numpy as np

            channel = np.arange(first, last) // inner % channels
            shifted = (read(first, last) - zero_points.array[channel]).astype("<f4")
            scaled: NDArray[Any] = shifted * scales.array.astype("<f4")[channel]
            return scaled

        count, strides = values.numel, None
    stored = _stored(tensor.values, tensor.scale, tensor.zero_point)
    return _made(name, DType.F32, values.shape, ComputedSource(file_of(source), stored, count, 4, compute), strides)


def _in_blocks(name: str, tensor: BlockTensor, storages: Storages) -> Assembly:
    raw = TensorInfo(name, DType.U8, (tensor.storage.nbytes,), tensor.storage)
    source, _ = storages.locate(raw)

    def compute(first: int, last: int) -> NDArray[Any]:
        return dequantised(tensor, source, first, last)

    made = ComputedSource(file_of(source), (tensor.storage,), prod(tensor.shape), 4, compute)
    return _made(name, DType.F32, tensor.shape, made, None)


def _sparse(name: str, tensor: SparseTensor, storages: Storages) -> Assembly:
    source, values = storages.locate(tensor.values)
    which = f"{source.name}: tensor {name!r:.100}"
    if values.dtype not in _NUMPY:
        raise UnsupportedLayout(f"{which} is sparse and of type {values.dtype.torch_name}")
    if tensor.layout != "coo" and (len(tensor.indices[0].shape) != 1 or len(tensor.shape) < 2):
        raise UnsupportedLayout(f"{which} is a batch of sparse matrices")
    if values.numel + sum(index.numel for index in tensor.indices) > MAX_SPARSE:
        raise LimitExceeded(f"{which} has more than {MAX_SPARSE:,} indices and values")
    elements = _Elements(tensor, storages, which)
    count = prod(tensor.shape)
    stored = _stored(tensor.values, *tensor.indices)
    made = ComputedSource(file_of(source), stored, count, values.dtype.itemsize, elements.between)
    return _made(name, values.dtype, tensor.shape, made, None)


def _stored(*parts: TensorInfo | float) -> tuple[StorageRef, ...]:
    return tuple(dict.fromkeys(part.storage for part in parts if isinstance(part, TensorInfo)))


def _made(
    name: str, dtype: DType, shape: tuple[int, ...], source: ComputedSource, strides: tuple[int, ...] | None
) -> Assembly:
    view = TensorInfo(name, dtype, shape, StorageRef(name, 0, source.size), strides=strides)
    return Assembly(dtype, shape, (Piece(source, view),))


class _Loaded:
    """A tensor as an array, read when it is first needed."""

    def __init__(self, tensor: TensorInfo, storages: Storages) -> None:
        self._piece = Piece(*storages.locate(tensor))

    @cached_property
    def array(self) -> NDArray[Any]:
        import numpy as np

        view = self._piece.tensor
        data = bytearray(view.nbytes)
        for offset, part in stream(PlannedTensor(view.name, view.dtype, view.shape, (self._piece,), 0, view.nbytes)):
            data[offset : offset + len(part)] = part
        return np.frombuffer(data, f"<{_NUMPY[view.dtype]}").reshape(view.shape)


class _Elements:
    """The elements of a sparse tensor that are there, by their place in the C order of all."""

    def __init__(self, tensor: SparseTensor, storages: Storages, which: str) -> None:
        self._tensor = tensor
        self._which = which
        self._indices = tuple(_Loaded(index, storages) for index in tensor.indices)
        self._values = _Loaded(tensor.values, storages)

    def between(self, first: int, last: int) -> NDArray[Any]:
        """All elements from *first* to *last*, those that are not there zero."""
        import numpy as np

        places, values = self._sorted
        begin, end = np.searchsorted(places, [first, last])
        out = np.zeros(last - first, values.dtype)
        out[places[begin:end] - first] = values[begin:end]
        return out

    @cached_property
    def _sorted(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Places, ascending and each once, and the values there; what stands at one place is added up."""
        import numpy as np

        shape = self._tensor.shape
        at, values = self._coordinates()
        for axis, index in enumerate(at):
            if index.size and not (index.min() >= 0 and index.max() < shape[axis]):
                raise Malformed(f"{self._which} is sparse, and its indices lead out of it")
        inner = prod(shape[len(at) :])
        places = np.zeros(values.shape[0], "i8")
        for axis, index in enumerate(at):
            places += index.astype("i8") * prod(shape[axis + 1 :])
        places = (places[:, None] + np.arange(inner)).ravel()
        found, where = np.unique(places, return_inverse=True)
        added = np.zeros(found.size, values.dtype)
        np.add.at(added, where, values.reshape(-1))
        return found, added

    def _coordinates(self) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """The indices along the sparse axes, and the values that stand there: elements, or rows of dense axes."""
        import numpy as np

        layout, shape, values = self._tensor.layout, self._tensor.shape, self._values.array
        if layout == "coo":
            return list(self._indices[0].array), values
        compressed, plain = (loaded.array.astype("i8") for loaded in self._indices)
        height, width = values.shape[1:3] if layout in ("bsr", "bsc") else (1, 1)
        rows = layout in ("csr", "bsr")
        lines = shape[0] // max(height, 1) if rows else shape[1] // max(width, 1)
        counts = np.diff(compressed)
        if compressed.size != lines + 1 or (counts < 0).any() or compressed[0] != 0 or compressed[-1] != plain.size:
            raise Malformed(f"{self._which} is sparse, and its compressed indices do not fit it")
        line = np.repeat(np.arange(lines), counts)
        at = [line, plain] if rows else [plain, line]
        if layout in ("csr", "csc"):
            return at, values
        i, j = (grid.ravel() for grid in np.mgrid[:height, :width])
        at = [(at[0][:, None] * height + i).ravel(), (at[1][:, None] * width + j).ravel()]
        return at, values.reshape(-1, *values.shape[3:])
