"""What steers a UNet by a picture, under the names of both layouts: ControlNets and T2I-Adapters.

A ControlNet is a copy of the UNet down to its middle, with convolutions before it for the picture and one behind each
output that is zero before training (lllyasviel/ControlNet, ``cldm.py``). A T2I-Adapter numbers its residual blocks
through where diffusers numbers them by resolution (TencentARC/T2I-Adapter, ``extra_adapters.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from math import isqrt

from modelhub.convert.layouts import module_configs, unet
from modelhub.convert.layouts.base import CHECKPOINT, Layout, Modules, Place, Shapes, View, both, dimension
from modelhub.convert.layouts.plan import divided, viewed_shape
from modelhub.errors import ConversionError

_CONTROLNET_PREFIXES = ("control_model.", "controlnet.", "")
_HINT = "input_hint_block"

_ATTENTION = re.compile(r"(down_blocks\.\d+\.attentions\.\d+)\.(?:norm|proj_in|proj_out)\.(?:weight|bias)")
_RESIDUAL_BLOCKS = 2
"""Residual blocks of a full T2I-Adapter at each resolution (``nums_rb``)."""


def to_controlnet(shapes: Shapes) -> Layout:
    """The component ``controlnet`` under diffusers' names, of a ControlNet with names and *shapes* of either layout.

    Names beside it, as of a whole checkpoint, are no matter. Raises :class:`ConversionError` for one that diffusers
    has no configuration for.
    """
    marks = (f"{_HINT}.0.weight", "controlnet_cond_embedding.conv_in.weight")
    found = ((prefix, mark) for prefix in _CONTROLNET_PREFIXES for mark in marks if prefix + mark in shapes)
    prefix, mark = next(found, (None, ""))
    if prefix is None:
        raise ConversionError("there is no ControlNet in it")
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    if mark.startswith(_HINT):
        return _arranged("controlnet", own, _controlnet_places(unet.from_ldm(own), own), prefix)
    places = (_same(name) for each in _controlnet_places(unet.from_diffusers(own), own) for name in each.diffusers)
    return _arranged("controlnet", own, chain(places, _empty_attentions(own)), prefix)


def to_t2i_adapter(shapes: Shapes) -> Layout:
    """The component ``t2i_adapter`` under diffusers' names, of a T2I-Adapter with names and *shapes* of either layout.

    Raises :class:`ConversionError` for one that diffusers has no configuration for.
    """
    return _arranged("t2i_adapter", shapes, _adapter_places(shapes), "")


def _arranged(component: str, own: Shapes, places: Iterator[Place], prefix: str) -> Layout:
    pieces: dict[str, tuple[View, ...]] = {}
    used: set[str] = set()
    missing: list[tuple[str, str]] = []
    for place in places:
        if place.ldm in own:
            pieces.update(divided(place, prefix + place.ldm, own[place.ldm]))
            used.add(place.ldm)
        else:
            missing.append((CHECKPOINT, prefix + place.ldm))
    unused = tuple((CHECKPOINT, prefix + name) for name in own if name not in used)
    config: Mapping[str, object] = {}
    if not missing:
        shapes = {prefix + name: shape for name, shape in own.items()}
        placed = {name: viewed_shape(views, shapes) for name, views in pieces.items()}
        config = module_configs.controlnet(placed) if component == "controlnet" else _adapter_config(placed)
    return Layout({component: pieces}, unused, tuple(missing), {f"{component}/config.json": config})


def _same(name: str) -> Place:
    """The place of a tensor of a file that has diffusers' names already."""
    return Place(name, (name,))


def _empty_attentions(shapes: Shapes) -> Iterator[Place]:
    """The places of attentions without transformer blocks, which small ControlNets of SDXL have."""
    modules = Modules(shapes)
    for name in shapes:
        match = _ATTENTION.fullmatch(name)
        if match and f"{match[1]}.transformer_blocks" not in modules:
            yield _same(name)


def _controlnet_places(structure: unet.Structure, shapes: Shapes) -> Iterator[Place]:
    yield from unet.lower_places(structure)
    modules = Modules(shapes)
    steps = max(modules.count(_HINT) - 2, modules.count("controlnet_cond_embedding.blocks"))
    yield from both(f"{_HINT}.0", "controlnet_cond_embedding.conv_in")
    for i in range(steps):
        yield from both(f"{_HINT}.{2 * i + 2}", f"controlnet_cond_embedding.blocks.{i}")
    yield from both(f"{_HINT}.{2 * steps + 2}", "controlnet_cond_embedding.conv_out")
    outputs = sum(len(level) + 1 for level in structure.down)
    for i in range(outputs):
        yield from both(f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}")
    yield from both("middle_block_out.0", "controlnet_mid_block")


def _adapter_places(shapes: Shapes) -> Iterator[Place]:
    """Where the tensors of a T2I-Adapter are in diffusers; those of no use to it have no place."""
    light = any(re.fullmatch(r"(adapter\.)?body\.0\.in_conv\.weight", name) for name in shapes)
    numbered = any(re.fullmatch(r"(adapter\.)?body\.0\.block1\.weight", name) for name in shapes)
    prefix = "adapter." if any(name.startswith("adapter.") for name in shapes) else ""
    modules = Modules(shapes)
    levels = modules.count(f"{prefix}body") // (_RESIDUAL_BLOCKS if numbered else 1)
    if not levels:
        raise ConversionError("there is no T2I-Adapter in it")
    if not light:
        yield from both(f"{prefix}conv_in", "adapter.conv_in")
    for level in range(levels):
        ours = f"adapter.body.{level}"
        inner = next((each for each in ("resnets", "body") if f"{prefix}body.{level}.{each}" in modules), None)
        first = f"{prefix}body.{level * _RESIDUAL_BLOCKS if numbered else level}"
        if light or f"{first}.in_conv" in modules:
            yield from both(f"{first}.in_conv", f"{ours}.in_conv")
        blocks = _RESIDUAL_BLOCKS if numbered else modules.count(f"{first}.{inner}")
        for j in range(blocks):
            theirs = f"{prefix}body.{level * _RESIDUAL_BLOCKS + j}" if numbered else f"{first}.{inner}.{j}"
            for half in ("block1", "block2"):
                yield from both(f"{theirs}.{half}", f"{ours}.resnets.{j}.{half}")
        if light:
            yield from both(f"{first}.out_conv", f"{ours}.out_conv")


def _adapter_config(shapes: Shapes) -> Mapping[str, object]:
    """``T2IAdapter``'s; a full one folds 16 x 16 pixels for SDXL and 8 x 8 for SD, each of one or three channels."""
    light = "adapter.conv_in.weight" not in shapes
    levels = Modules(shapes).count("adapter.body")
    folded = dimension(shapes, "adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight", 1)
    channels = 3 if folded % 3 == 0 else 1
    factor = isqrt(folded // channels)
    if factor not in (8, 16) or channels * factor**2 != folded:
        raise ConversionError(f"diffusers has no T2I-Adapter of pictures folded into {folded} channels")
    ends = "out_conv" if light else "resnets.0.block2"
    widths = [dimension(shapes, f"adapter.body.{i}.{ends}.weight", 0) for i in range(levels)]
    return {
        "_class_name": "T2IAdapter",
        "adapter_type": "light_adapter" if light else "full_adapter_xl" if factor == 16 else "full_adapter",
        "channels": widths[:-1] if light else widths,
        "downscale_factor": factor,
        "in_channels": channels,
        "num_res_blocks": Modules(shapes).count("adapter.body.0.resnets"),
    }
