"""A view of a tensor as a tensor of its own: nothing is read, only offset, shape and strides change."""

from __future__ import annotations

from modelhub.convert.layouts.base import Shape, View
from modelhub.errors import UnsupportedLayout
from modelhub.tensors import TensorInfo


def resolve(view: View, tensor: TensorInfo) -> TensorInfo:
    """What *view* sees of *tensor*, its source; the result keeps the source's name.

    Raises :class:`UnsupportedLayout` where *tensor* has not the dimensions that the view asks for, or where its rows
    do not begin at a whole byte.
    """
    shape, offset = tensor.shape, tensor.offset
    strides = tensor.strides if tensor.strides is not None else _contiguous(shape)
    if view.rows is not None:
        first, end = view.rows
        if not shape or not 0 <= first <= end <= shape[0]:
            raise _unfit(tensor, f"rows {first} to {end}")
        bits = first * strides[0] * tensor.dtype.bits
        if bits % 8:
            raise _unfit(tensor, f"row {first} as a whole byte")
        offset += bits // 8
        shape = (end - first, *shape[1:])
    if view.transposed:
        if len(shape) != 2:
            raise _unfit(tensor, "two dimensions")
        shape, strides = shape[::-1], strides[::-1]
    if view.shape is not None and view.shape != shape:
        kept = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
        if [size for size, _ in kept] != [size for size in view.shape if size != 1]:
            raise _unfit(tensor, f"the shape {list(view.shape)}")
        left = iter(kept)
        strides = tuple(next(left)[1] if size != 1 else 1 for size in view.shape)
        shape = view.shape
    return tensor._replace(shape=shape, offset=offset, strides=None if strides == _contiguous(shape) else strides)


def _contiguous(shape: Shape) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def _unfit(tensor: TensorInfo, what: str) -> UnsupportedLayout:
    return UnsupportedLayout(f"tensor {tensor.name!r:.100} of shape {list(tensor.shape)} has not {what}")
