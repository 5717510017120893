"""The element type that a model's weights are kept in, and how they are quantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

from modelhub.identify.base import Evidence
from modelhub.tensor_table import bits_of
from modelhub.tensors import DTYPE_BY_LABEL, BlockTensor, StateDict

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
    "bitsandbytes__nf4": "nf4",
    "bitsandbytes__fp4": "fp4",
    "wscales": "svdquant",
    "wtscale": "svdquant",
    "weight_qdata": "torchao",
    "_weight_qdata": "torchao",
    "SCB": "bnb-int8",
    "qzeros": "gptq",
    "weight_scale_2": "nvfp4",
}
"""Last parts of names beside weights that are packed: bitsandbytes' types, nunchaku's SVDQuant, torchao, GPTQ, NVIDIA's
FP4 (a scale of the tensor beside those of its blocks)."""

_SCALES = frozenset({"scale_weight", "weight_scale", "scale_input", "input_scale", "scaled_fp8", "weight_scale_inv"})
"""Last parts of the names of scales beside weights of eight bits (ComfyUI, Lightricks, DeepSeek)."""

_TELLING = frozenset({*_PACKED, *_SCALES, "scale", "_scale"})
_INTEGERS = {"I8": "int8", "U8": "uint8"}
_COUNTED = frozenset({*_NAMES, *_INTEGERS})


def precision_of(state_dict: StateDict, ends: Set[str]) -> Evidence | None:
    """The precision of *state_dict*, the last parts of whose names are *ends*: the type that holds at least
    :data:`DOMINANT` of its floating point bytes.

    Weights that are packed or scaled are called by their scheme (``nf4``, ``svdquant``, ``fp8_e4m3-scaled``,
    ``int8-scaled``, ``sdnq``; in GGUF files the commonest block type, ``gguf-q4_k``). ``mixed`` when no type has such a
    share, ``None`` when nothing is floating point; plain integers, booleans and complex numbers have no say.
    """
    if blocks := _blocks(state_dict):
        return blocks
    tensors = state_dict.tensors
    scales = ""
    share = {dtype.label: bits for dtype, bits in bits_of(tensors).items() if dtype.label in _COUNTED}
    for name in tensors if not _TELLING.isdisjoint(ends) else ():
        last = name[name.rfind(".") + 1 :]
        if last in _PACKED:
            return Evidence("precision", _PACKED[last], "key", f"there is {name[:200]}: the weights are packed")
        if last in _SCALES:
            scales = scales or name[:200]
        elif last in {"scale", "_scale"} and not scales:
            scheme = _by_sibling(name, last, state_dict)
            if scheme:
                return Evidence("precision", scheme, "key", f"there is {name[:200]} beside packed weights")
    floating = {_NAMES[label]: count for label, count in share.items() if label in _NAMES}
    if scales and (scaled := _scaled(share, scales)):
        return scaled
    return _dominant(floating)


def _dominant(share: Mapping[str, int]) -> Evidence | None:
    total = sum(share.values())
    if not total:
        return None
    ranked = sorted(share.items(), key=lambda item: (-item[1], item[0]))
    largest, nbytes = ranked[0]
    value = largest if nbytes >= DOMINANT * total else "mixed"
    detail = ", ".join(f"{name} {100 * count / total:.3g} %" for name, count in ranked if count)
    return Evidence("precision", value, "dtype", f"of the floating point bytes: {detail}")


def _scaled(share: Mapping[str, int], name: str) -> Evidence | None:
    """The scheme of weights with scales beside them, by the type of eight bits that holds most bytes."""
    narrow = {label: count for label, count in share.items() if DTYPE_BY_LABEL[label].bits <= 8 and count}
    if not narrow:
        return None
    label = max(narrow, key=narrow.__getitem__)
    value = _INTEGERS.get(label) or _NAMES[label]
    return Evidence("precision", f"{value}-scaled", "key", f"there is {name}: scales beside weights of {label}")


def _by_sibling(name: str, last: str, state_dict: StateDict) -> str | None:
    """SDNQ keeps ``weight`` and ``scale``, quanto ``weight._data`` and ``weight._scale``; the weight is of integers."""
    stem = name[: -len(last)]
    weight = state_dict.tensors.get(stem + ("weight" if last == "scale" else "_data"))
    if weight is None or weight.dtype.bits > 8 or len(weight.shape) < 1:
        return None
    return "sdnq" if last == "scale" else "quanto"


def _blocks(state_dict: StateDict) -> Evidence | None:
    """The ggml type of most bytes, when there are tensors in blocks at all."""
    share: Counter[str] = Counter()
    for left in state_dict.leftovers:
        if isinstance(left.structure, BlockTensor):
            share[left.structure.kind.lower()] += left.structure.storage.nbytes
    if not share:
        return None
    total = sum(share.values())
    detail = ", ".join(f"{kind} {100 * count / total:.3g} %" for kind, count in share.most_common())
    kind = share.most_common(1)[0][0]
    return Evidence("precision", f"gguf-{kind}", "dtype", f"of the bytes in ggml's blocks: {detail}")
