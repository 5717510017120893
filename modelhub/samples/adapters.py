"""Names and shapes of the small files: LoRAs, embeddings, hypernetworks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from modelhub.samples.modules import Layout, linear
from modelhub.samples.text_encoders import CLIP_G, CLIP_H, CLIP_L, TextEncoder, encoder_matrices
from modelhub.samples.unet import UNETS, attention_layers, parts
from modelhub.tensors import DType

Base = Literal["sd-1", "sd-2", "sdxl"]
Dialect = Literal["kohya", "diffusers", "peft"]

_TRAINED_ENCODERS: dict[Base, tuple[TextEncoder, ...]] = {
    "sd-1": (CLIP_L,),
    "sd-2": (TextEncoder(CLIP_H.width, CLIP_H.layers - 1),),  # SD 2 never runs the last layer
    "sdxl": (CLIP_L, CLIP_G),
}


def lora(
    base: Base = "sd-1",
    rank: int = 4,
    *,
    text_encoder: bool = True,
    dialect: Dialect = "kohya",
    dtype: DType = DType.F16,
) -> Layout:
    """A LoRA over every matrix of the attention blocks and, with *text_encoder*, of the text encoders' layers.

    *dialect* ``kohya``: sd-scripts' names (diffusers module names with underscores for SD 1 and 2, SGM ones
    for SDXL) with ``lora_down``, ``lora_up`` and ``alpha``; ``peft``: dotted diffusers names with ``lora_A``
    and ``lora_B``; ``diffusers``: the same modules under diffusers' own older leaf names (see its
    ``state_dict_utils.py``). The last two have no alpha.
    """
    layout: Layout = {}
    for component, module, outputs, inputs, is_conv in _targets(base, text_encoder, dialect):
        name, down, up = _names(component, module, dialect, several_encoders=base == "sdxl")
        kernel = (1, 1) if is_conv else ()
        if dialect == "kohya":
            layout[f"{name}.alpha"] = (dtype, ())
        layout[f"{name}.{down}.weight"] = (dtype, (rank, inputs, *kernel))
        layout[f"{name}.{up}.weight"] = (dtype, (outputs, rank, *kernel))
    return layout


def _targets(base: Base, text_encoder: bool, dialect: Dialect) -> Iterator[tuple[str, str, int, int, bool]]:
    """``(component, module, outputs, inputs, is a 1x1 convolution)`` of what a LoRA changes."""
    if text_encoder:
        for number, encoder in enumerate(_TRAINED_ENCODERS[base], start=1):
            for name, outputs, inputs in encoder_matrices(encoder, encoder.width):
                yield f"text_encoder_{number}", name, outputs, inputs, False
    unet = UNETS[base]
    sgm_names = dialect == "kohya" and base == "sdxl"
    for part in parts(unet):
        if part.kind == "attention":
            for name, outputs, inputs, _ in attention_layers(unet, part.outputs, part.depth):
                is_conv = name.startswith("proj_") and not unet.linear_projection
                yield "unet", f"{part.ldm if sgm_names else part.diffusers}.{name}", outputs, inputs, is_conv


def _names(component: str, module: str, dialect: Dialect, *, several_encoders: bool) -> tuple[str, str, str]:
    """The prefix of a module's tensors and the names of its down and its up matrix."""
    number = component.removeprefix("text_encoder_")
    if dialect == "kohya":
        short = "unet" if component == "unet" else f"te{number}" if several_encoders else "te"
        return f"lora_{short}_{module.replace('.', '_')}", "lora_down", "lora_up"
    prefix = f"{component.removesuffix('_1')}.{module}"
    if dialect == "peft":
        return prefix, "lora_A", "lora_B"
    if component == "unet":
        return prefix, "lora.down", "lora.up"
    return prefix, "lora_linear_layer.down", "lora_linear_layer.up"


def embedding(base: Base = "sd-1", vectors: int = 8, dtype: DType = DType.F32) -> Layout:
    """A textual inversion as in safetensors files: ``emb_params``, for SDXL ``clip_l`` and ``clip_g``."""
    if base == "sdxl":
        return {"clip_l": (dtype, (vectors, CLIP_L.width)), "clip_g": (dtype, (vectors, CLIP_G.width))}
    return {"emb_params": (dtype, (vectors, CLIP_L.width if base == "sd-1" else CLIP_H.width))}


def hypernetwork(
    widths: tuple[int, ...] = (320, 640, 768, 1280),
    structure: tuple[float, ...] = (1, 2, 1),
    dtype: DType = DType.F32,
) -> dict[int, tuple[Layout, Layout]]:
    """An A1111 hypernetwork: for each attention width the layers that change keys and those for values.

    *structure* is A1111's ``layer_structure``: the widths of the layers, relative to the attention width.
    """

    def module(width: int) -> Layout:
        sizes = [int(width * factor) for factor in structure]
        return {
            name: (dtype, shape)
            for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
            for name, shape in linear(f"linear.{i}", outputs, inputs)
        }

    return {width: (module(width), module(width)) for width in widths}
