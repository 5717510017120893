"""Tensors whose bytes do not lie in the file as safetensors wants them, put in order in bounded memory.

A transposed, strided or expanded tensor, or one of big-endian elements, is cut into tiles of at most :data:`WINDOW`
bytes, chosen so that neither the runs of bytes that a tile is read from nor those that it is written to are short. The
elements are moved with strided memory views, a line at a time, so that the work per element is C's.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Literal

from modelhub.errors import ChangedDuringRead
from modelhub.source import Source
from modelhub.tensors import TensorInfo

WINDOW = 8 << 20
"""Bytes of a tile, and of one read of the source: two such buffers are all the memory it takes."""

_SPARSE = 64 << 10
"""A read of so few bytes costs no more than the call; a longer one must be of use for a quarter of its bytes."""

_Code = Literal["B", "H", "I", "Q"]
_CODES: Mapping[int, _Code] = {1: "B", 2: "H", 4: "I", 8: "Q"}

Shape = tuple[int, ...]


def needs_gathering(tensor: TensorInfo) -> bool:
    """Whether *tensor*'s bytes differ from one contiguous little-endian run of its file."""
    return not tensor.contiguous or (tensor.storage.byteorder == "big" and tensor.dtype.bits > 8)


def extent(tensor: TensorInfo) -> int:
    """Bytes from the first to the last byte that *tensor* touches, both included; 0 for an empty tensor."""
    if tensor.numel == 0:
        return 0
    if tensor.strides is None:
        return tensor.nbytes
    return (_reach(tensor.shape, tensor.strides) * tensor.dtype.bits + 7) // 8


def gather(tensor: TensorInfo, source: Source) -> Iterator[tuple[int, memoryview]]:
    """The bytes of *tensor*, C-ordered and little-endian, as ``(offset within the tensor, bytes)`` in any order.

    A piece is valid until the next one is asked for, and its bytes are the caller's. The element type must be of whole
    bytes. Raises :class:`~modelhub.errors.ChangedDuringRead` for a source that ends early.
    """
    item = tensor.dtype.itemsize
    code = _CODES[item]
    shape, strides = _simplest(tensor)
    for first, tile in _tiles(shape, strides, WINDOW // item):
        begin = _dot(first, strides)
        places = c_strides(tile)
        moved = memoryview(bytearray(item * _count(tile)))
        for within, part in _parts(tile, strides, item):
            window = memoryview(bytearray(item * _reach(part, strides)))
            if source.readinto_at(tensor.start + item * (begin + _dot(within, strides)), window) != len(window):
                raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
            _move(window.cast(code), moved.cast(code)[_dot(within, places) :], part, strides, places)
        if tensor.storage.byteorder == "big":
            moved = _swapped(moved, item // 2 if tensor.dtype.is_complex else item)
        yield from _runs(moved, item, first, tile, shape)


def c_strides(shape: Shape) -> Shape:
    """Strides in elements of a C-ordered tensor of *shape*."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return tuple(strides)


def _simplest(tensor: TensorInfo) -> tuple[Shape, Shape]:
    """Shape and strides without dimensions of size 1; of one dimension where the elements lie in order."""
    if tensor.contiguous or tensor.strides is None:
        return (tensor.numel,), (1,)
    axes = [(n, s) for n, s in zip(tensor.shape, tensor.strides, strict=True) if n != 1]
    return tuple(n for n, _ in axes), tuple(s for _, s in axes)


def _count(shape: Shape) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _reach(shape: Shape, strides: Shape) -> int:
    """Elements of storage from the first to the last that are touched, both included."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def _dot(index: Shape, weights: Shape) -> int:
    return sum(i * w for i, w in zip(index, weights, strict=True))


def _cut(shape: Shape, fits: Callable[[Shape], bool], axis_of: Callable[[Shape], int]) -> Iterator[tuple[Shape, Shape]]:
    """Halve *shape* along the axis that *axis_of* chooses until its parts, (first index, shape), fit."""
    pending = [((0,) * len(shape), shape)]
    while pending:
        first, box = pending.pop()
        if fits(box):
            yield first, box
            continue
        axis = axis_of(box)
        half = box[axis] // 2
        second = (*first[:axis], first[axis] + half, *first[axis + 1 :])
        pending.append((second, (*box[:axis], box[axis] - half, *box[axis + 1 :])))
        pending.append((first, (*box[:axis], half, *box[axis + 1 :])))


def _tiles(shape: Shape, strides: Shape, most: int) -> Iterator[tuple[Shape, Shape]]:
    """Cut *shape* into tiles of at most *most* elements."""

    def axis_of(box: Shape) -> int:
        outer = next(a for a, n in enumerate(box) if n > 1)
        if strides[outer] == max(s for s, n in zip(strides, box, strict=True) if n > 1):
            return outer  # outermost in source and output: the tiles are whole runs of both
        return max(range(len(box)), key=lambda a: box[a])

    return _cut(shape, lambda box: _count(box) <= most, axis_of)


def _parts(tile: Shape, strides: Shape, item: int) -> Iterator[tuple[Shape, Shape]]:
    """Cut *tile* into parts that are worth one read of the source each."""

    def fits(box: Shape) -> bool:
        reach, count = _reach(box, strides), _count(box)
        return count == 1 or (item * reach <= WINDOW and (item * reach <= _SPARSE or reach <= 4 * count))

    return _cut(tile, fits, lambda box: max(range(len(box)), key=lambda a: (box[a] - 1) * strides[a]))


def _move(window: memoryview, moved: memoryview, box: Shape, strides: Shape, places: Shape) -> None:
    """Put the elements of *box* from *window*, strided by *strides*, into *moved*, strided by *places*."""
    line = max(range(len(box)), key=lambda a: box[a])
    count, stride, place = box[line], strides[line], places[line]
    others = [a for a in range(len(box)) if a != line]
    for index in product(*(range(box[a]) for a in others)):
        begin = sum(i * strides[a] for i, a in zip(index, others, strict=True))
        into = sum(i * places[a] for i, a in zip(index, others, strict=True))
        target = moved[into : into + (count - 1) * place + 1 : place]
        if stride:
            target[:] = window[begin : begin + (count - 1) * stride + 1 : stride]
        else:
            target[:] = array(window.format, [window[begin]]) * count


def _swapped(data: memoryview, unit: int) -> memoryview:
    """*data* with the bytes of every *unit* reversed."""
    if unit == 1:
        return data
    values = array(_CODES[unit], bytes(data))
    values.byteswap()
    return memoryview(values).cast("B")


def _runs(moved: memoryview, item: int, first: Shape, tile: Shape, shape: Shape) -> Iterator[tuple[int, memoryview]]:
    """Cut the C-ordered *tile* into the runs that lie together in the C order of the whole *shape*."""
    places = c_strides(shape)
    axis = len(tile)
    while axis > 0 and tile[axis:] == shape[axis:]:
        axis -= 1
    length = item * _count(tile[axis:])
    begin = _dot(first, places)
    position = 0
    for index in product(*(range(n) for n in tile[:axis])):
        place = begin + sum(i * p for i, p in zip(index, places, strict=False))
        yield place * item, moved[position : position + length]
        position += length
