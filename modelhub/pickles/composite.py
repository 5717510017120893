"""Tensors that are not made of the elements of one storage: sparse, quantised, nested, and those without data.

Source of the signatures: torch 2.13 ``torch/_utils.py``.
"""

from __future__ import annotations

import math
from typing import Literal, NoReturn

from modelhub.pickles.arrays import array_of, makes_array
from modelhub.pickles.declaration import is_count
from modelhub.pickles.elements import (
    REBUILDS,
    BadTensor,
    Composite,
    Surroundings,
    dtype_of,
    elements_of,
    placed,
    plain_tensor,
    sizes_of,
)
from modelhub.pickles.values import Call, Global, Value
from modelhub.tensors import DType, QuantizedTensor, SparseTensor, TensorInfo

_SPARSE = frozenset({"_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"})
_DEVICE = frozenset(
    {"_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor"}
    | {"_rebuild_xla_tensor", "_rebuild_ort_tensor", "_rebuild_mlc_tensor"}
)
_LAYOUTS: dict[str, Literal["coo", "csr", "csc", "bsr", "bsc"]] = {
    "sparse_coo": "coo",
    "sparse_csr": "csr",
    "sparse_csc": "csc",
    "sparse_bsr": "bsr",
    "sparse_bsc": "bsc",
}
_INTEGERS = {DType.QI8: DType.I8, DType.QU8: DType.U8, DType.QI32: DType.I32}
_INDICES = frozenset({DType.I64, DType.I32})


def makes_composite(call: Call) -> str | None:
    """The name of torch's function that *call* calls, if it makes a tensor in another way than of one storage."""
    callee = call.callee
    if type(callee) is not Global or callee.module != "torch._utils" or call.opcode != "REDUCE":
        return None
    return callee.name if callee.name.startswith("_rebuild_") and callee.name not in REBUILDS else None


def composite_of(name: str, call: Call, around: Surroundings) -> TensorInfo | None:
    """The tensor that *call* makes, where it is a plain one after all; ``None`` when it cannot be told.

    Raises :class:`Composite` with what there is to it, :class:`BadTensor` when its numbers do not fit.
    """
    function = makes_composite(call)
    args = call.args if type(call.args) is tuple else ()
    if function in _SPARSE:
        _sparse(name, args, around)
    if function == "_rebuild_qtensor":
        _quantised(name, args, around)
    if function == "_rebuild_nested_tensor":
        raise Composite("a nested tensor, whose parts have different shapes")
    if function == "_rebuild_meta_tensor_no_storage":
        raise Composite("a tensor on the meta device, which has no data")
    if function == "_rebuild_wrapper_subclass":
        kind = args[0].qualified if args and type(args[0]) is Global else "a class that is not named"
        raise Composite(f"a tensor of {kind:.100}, which has no data of its own")
    if function in _DEVICE:
        return _of_device(name, args, around)
    return None


def _of_device(name: str, args: tuple[Value, ...], around: Surroundings) -> TensorInfo | None:
    """``(array or tensor, dtype, device, requires_grad)``: a tensor of a device, saved from the CPU."""
    inner = _inner(name, args[0], around) if len(args) >= 2 else None
    dtype = dtype_of(args[1]) if len(args) >= 2 else None
    if inner is not None and dtype is not inner.dtype:
        wanted = dtype.torch_name if dtype is not None else "another type"
        raise Composite(f"a tensor that was saved as {inner.dtype.torch_name}, to be loaded as {wanted}")
    return inner


def _inner(name: str, value: Value, around: Surroundings) -> TensorInfo | None:
    """The plain tensor or array *value*."""
    if type(value) is not Call or type(value.callee) is not Global:
        return None
    if makes_array(value):
        return array_of(name, value, around)
    if value.callee.module != "torch._utils" or value.callee.name not in REBUILDS or type(value.args) is not tuple:
        return None
    return plain_tensor(name, value.callee.name, value.args, around)


def _sparse(name: str, args: tuple[Value, ...], around: Surroundings) -> NoReturn:
    """``(layout, (indices, values, size[, coalesced]))`` or ``(layout, (compressed, plain, values, size))``."""
    layout = _layout(args[0]) if len(args) == 2 else None
    parts = args[1] if layout is not None and type(args[1]) is tuple else ()
    described = f"a sparse tensor of layout {layout or 'unknown'}"
    count = 1 if layout == "coo" else 2
    shape = sizes_of(parts[count + 1]) if len(parts) > count + 1 else None
    if layout is None or shape is None or not all(map(is_count, shape)):
        raise Composite(described)
    indices = [_inner(f"{name}.indices", part, around) for part in parts[:count]]
    values = _inner(f"{name}.values", parts[count], around)
    known = tuple(each for each in indices if each is not None and each.dtype in _INDICES)
    described = f"{described} and shape {shape}"
    if values is None or len(known) != count or not _fit(layout, shape, known, values):
        raise Composite(described)
    coalesced = len(parts) == 4 and parts[3] is True and layout == "coo"
    raise Composite(described, SparseTensor(layout, shape, known, values, coalesced))


def _layout(value: Value) -> Literal["coo", "csr", "csc", "bsr", "bsc"] | None:
    """``torch.serialization._get_layout('torch.sparse_coo')``, or the layout as a name of torch's."""
    if type(value) is Call and type(value.callee) is Global and value.callee.name == "_get_layout":
        text = value.args[0] if type(value.args) is tuple and len(value.args) == 1 else None
        return _LAYOUTS.get(text.removeprefix("torch.")) if type(text) is str else None
    return _LAYOUTS.get(value.name) if type(value) is Global and value.module == "torch" else None


def _fit(layout: str, shape: tuple[int, ...], indices: tuple[TensorInfo, ...], values: TensorInfo) -> bool:
    """Whether the shapes of *indices* and *values* are those of a sparse tensor of *shape*."""
    if layout != "coo":
        return len(shape) >= 2 and indices[1].shape == values.shape[: len(indices[1].shape)]
    if len(indices[0].shape) != 2 or not values.shape:
        return False
    sparse, count = indices[0].shape
    return sparse <= len(shape) and values.shape == (count, *shape[sparse:])


def _quantised(name: str, args: tuple[Value, ...], around: Surroundings) -> NoReturn:
    """``(storage, offset, size, stride, (scheme, scale, zero point[, axis]), ...)``."""
    elements = elements_of(args[0], around, name) if len(args) >= 5 else None
    dtype = elements.dtype if elements is not None else None
    described = (
        f"a quantised tensor of type {dtype.torch_name}" if dtype in _INTEGERS and dtype else "a quantised tensor"
    )
    if elements is None or dtype not in _INTEGERS:
        raise Composite(described)
    shape, strides, scheme = sizes_of(args[2]), sizes_of(args[3]), args[4]
    if shape is None or strides is None or type(scheme) is not tuple or not scheme or type(scheme[0]) is not Global:
        raise Composite(described)
    values = placed(f"{name}.values", _INTEGERS[dtype], elements, (args[1], shape, strides))
    if scheme[0].qualified == "torch.per_tensor_affine" and len(scheme) == 3:
        _, scale, zero_point = scheme
        if type(scale) is float and math.isfinite(scale) and type(zero_point) is int:
            raise Composite(f"{described}, with one scale", QuantizedTensor(values, scale, zero_point))
    if scheme[0].name in ("per_channel_affine", "per_channel_affine_float_qparams") and len(scheme) == 4:
        scales = _inner(f"{name}.scale", scheme[1], around)
        zero_points = _inner(f"{name}.zero_point", scheme[2], around)
        axis = scheme[3]
        described = f"{described}, with a scale for each channel"
        if scales is not None and zero_points is not None and is_count(axis) and axis < len(shape):
            if scales.shape != (shape[axis],) or zero_points.shape != (shape[axis],):
                raise BadTensor("tensor.geometry", f"{name}: it has not one scale for each of its channels")
            raise Composite(described, QuantizedTensor(values, scales, zero_points, axis))
    raise Composite(described)
