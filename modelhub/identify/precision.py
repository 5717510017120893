"""The element type that a model's weights are kept in."""

from __future__ import annotations

from collections.abc import Iterable

from modelhub.identify.base import Evidence
from modelhub.tensors import TensorInfo

DOMINANT = 0.9
"""The share of all floating point bytes that one element type must hold to be *the* precision."""

_NAMES = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8_e4m3",
    "F8_E5M2": "fp8_e5m2",
    "F8_E4M3FNUZ": "fp8_e4m3fnuz",
    "F8_E5M2FNUZ": "fp8_e5m2fnuz",
    "F6_E2M3": "fp6_e2m3",
    "F6_E3M2": "fp6_e3m2",
    "F4": "fp4",
}
"""Floating point types of weights, by the label of their :class:`~modelhub.tensors.DType`."""

_PACKED = {
    ".quant_state.bitsandbytes__nf4": "nf4",
    ".quant_state.bitsandbytes__fp4": "fp4",
    ".wscales": "svdquant",
}
"""Names beside weights that are packed into integers: bitsandbytes' four bit types, nunchaku's SVDQuant."""


def precision_of(tensors: Iterable[TensorInfo]) -> Evidence | None:
    """The precision of *tensors*: the type that holds at least :data:`DOMINANT` of their floating point bytes.

    ``mixed`` when no type does, ``None`` when nothing is floating point. Integers, booleans and complex numbers have
    no say, except where names beside them tell that they are packed weights.
    """
    share: dict[str, int] = {}
    endings = tuple(_PACKED)
    for tensor in tensors:
        if tensor.name.endswith(endings):
            value = next(value for ending, value in _PACKED.items() if tensor.name.endswith(ending))
            return Evidence("precision", value, "key", f"there is {tensor.name}: the weights are packed")
        label = tensor.dtype.label
        if label in _NAMES:
            share[label] = share.get(label, 0) + max(0, tensor.nbytes)
    total = sum(share.values())
    if not total:
        return None
    ranked = sorted(share.items(), key=lambda item: (-item[1], item[0]))
    largest, nbytes = ranked[0]
    value = _NAMES[largest] if nbytes >= DOMINANT * total else "mixed"
    detail = ", ".join(f"{_NAMES[label]} {100 * count / total:.3g} %" for label, count in ranked if count)
    return Evidence("precision", value, "dtype", f"of the floating point bytes: {detail}")
