"""By how much an upscaler enlarges, from the convolutions that make the larger image."""

from __future__ import annotations

import math
import re

from modelhub.identify.base import Evidence
from modelhub.identify.names import Names

_COLOURS = 3
_SHUFFLED = ("upsampler.0.weight", "up.0.weight", "to_img.0.weight", "upsample.0.weight")
"""What gives ``3 * scale ** 2`` channels for a pixel shuffle at the end (SPAN, OmniSR, MoSR, light SwinIR)."""

_STAGES = ("upsample.0.weight", "upsample.2.weight", "upsample.4.weight")
"""Convolutions that each multiply the channels for one pixel shuffle (SwinIR, HAT, DAT ...)."""

_LAST = re.compile(r"(body|feats|model)\.(\d+)\.weight")


def scale_of(names: Names, root: str) -> Evidence | None:
    """The factor, as ``4x``; ``None`` where it cannot be told."""
    shapes = {name[len(root) :]: tensor.shape for name, tensor in names.tensors.items() if name.startswith(root)}
    factor, seen = _factor(shapes)
    if factor is None or factor not in {1, 2, 3, 4, 8, 16}:
        return None
    return Evidence("variant", f"{factor}x", "shape", f"{root}{seen}: it enlarges {factor} times")


def _factor(shapes: dict[str, tuple[int, ...]]) -> tuple[int | None, str]:
    first = shapes.get("conv_first.weight") or shapes.get("model.0.weight") or ()
    folded = math.isqrt(first[1] // _COLOURS) if len(first) == 4 and first[1] in {12, 48} else 1
    if "conv_up1.weight" in shapes or "upconv1.weight" in shapes:
        stages = [name for name in shapes if re.fullmatch(r"(conv_up|upconv)\d\.weight", name)]
        return 2 ** len(stages) // folded, ", ".join(sorted(stages))
    stages = [name for name in _STAGES if _ratio(shapes.get(name)) in {4, 9}]
    if stages:
        return math.prod(math.isqrt(_ratio(shapes[name])) for name in stages), ", ".join(stages)
    for name in _SHUFFLED:
        if (factor := _shuffled(shapes.get(name))) is not None:
            return factor, name
    numbered = [(int(match[2]), name) for name in shapes if (match := _LAST.fullmatch(name))]
    if not numbered:
        return None, ""
    last, name = max(numbered)
    if name.startswith("model."):  # ESRGAN's old names: three numbers for each doubling
        return (2 ** ((last - 4) // 3) // folded, name) if last >= 4 and (last - 4) % 3 == 0 else (None, "")
    return _shuffled(shapes[name]), name


def _ratio(shape: tuple[int, ...] | None) -> int:
    """How many times as many channels a convolution gives as it takes; 0 when that is no whole number."""
    return shape[0] // shape[1] if shape and len(shape) == 4 and shape[1] and shape[0] % shape[1] == 0 else 0


def _shuffled(shape: tuple[int, ...] | None) -> int | None:
    if not shape or len(shape) != 4 or shape[0] % _COLOURS:
        return None
    factor = math.isqrt(shape[0] // _COLOURS)
    return factor if factor * factor * _COLOURS == shape[0] and factor else None
