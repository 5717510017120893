"""Names and shapes of the Stable Diffusion UNets, under their LDM names.

The structure is that of ``UNetModel`` in CompVis/latent-diffusion (``openaimodel.py``) and of its descendant
in Stability-AI/generative-models: two residual blocks a level down, three a level up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from modelhub.samples.modules import Named, conv, linear, norm, scaler


@dataclass(frozen=True, slots=True)
class UNet:
    """What tells one UNet from another.

    ``levels`` are the channels of each resolution level, ``depths`` its transformer blocks per attention
    (0: none), ``middle_depth`` those of the middle block; ``context`` is the width of the text encoding,
    ``vector`` that of the pooled conditioning (``label_emb``), ``linear_projection`` whether ``proj_in`` and
    ``proj_out`` are linear layers and not 1x1 convolutions.
    """

    levels: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    vector: int | None = None
    linear_projection: bool = True
    latent_channels: int = 4


UNETS = {
    "sd-1": UNet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, context=768, linear_projection=False),
    "sd-2": UNet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, context=1024),
    "sdxl": UNet((320, 640, 1280), (0, 2, 10), 10, context=2048, vector=2816),
    "sdxl-refiner": UNet((384, 768, 1536, 1536), (0, 4, 4, 0), 4, context=1280, vector=2560),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One residual block, attention or resampler: its LDM and its diffusers name, and its channels."""

    kind: Literal["residual", "attention", "resample"]
    ldm: str
    diffusers: str
    inputs: int
    outputs: int
    depth: int = 0


def parts(unet: UNet) -> Iterator[Part]:
    """The parts of *unet* in order."""
    last = len(unet.levels) - 1
    channels = unet.levels[0]
    skips = [channels]
    index = 1
    for level, outputs in enumerate(unet.levels):
        for j in range(2):
            yield Part("residual", f"input_blocks.{index}.0", f"down_blocks.{level}.resnets.{j}", channels, outputs)
            channels = outputs
            if depth := unet.depths[level]:
                name = f"down_blocks.{level}.attentions.{j}"
                yield Part("attention", f"input_blocks.{index}.1", name, channels, channels, depth)
            skips.append(channels)
            index += 1
        if level < last:
            name = f"down_blocks.{level}.downsamplers.0.conv"
            yield Part("resample", f"input_blocks.{index}.0.op", name, channels, channels)
            skips.append(channels)
            index += 1

    yield Part("residual", "middle_block.0", "mid_block.resnets.0", channels, channels)
    yield Part("attention", "middle_block.1", "mid_block.attentions.0", channels, channels, unet.middle_depth)
    yield Part("residual", "middle_block.2", "mid_block.resnets.1", channels, channels)

    index = 0
    for level in range(last, -1, -1):
        up = f"up_blocks.{last - level}"
        for j in range(3):
            inputs = channels + skips.pop()
            channels = unet.levels[level]
            yield Part("residual", f"output_blocks.{index}.0", f"{up}.resnets.{j}", inputs, channels)
            depth = unet.depths[level]
            if depth:
                name = f"{up}.attentions.{j}"
                yield Part("attention", f"output_blocks.{index}.1", name, channels, channels, depth)
            if level and j == 2:
                name = f"output_blocks.{index}.{2 if depth else 1}.conv"
                yield Part("resample", name, f"{up}.upsamplers.0.conv", channels, channels)
            index += 1


def attention_layers(unet: UNet, channels: int, depth: int) -> Iterator[tuple[str, int, int, bool]]:
    """``(name, outputs, inputs, has a bias)`` of every matrix in an attention part, projections included."""
    yield "proj_in", channels, channels, True
    for block in range(depth):
        prefix = f"transformer_blocks.{block}"
        for attention, inputs in (("attn1", channels), ("attn2", unet.context)):
            yield f"{prefix}.{attention}.to_q", channels, channels, False
            yield f"{prefix}.{attention}.to_k", channels, inputs, False
            yield f"{prefix}.{attention}.to_v", channels, inputs, False
            yield f"{prefix}.{attention}.to_out.0", channels, channels, True
            if attention == "attn1":
                yield f"{prefix}.ff.net.0.proj", channels * 8, channels, True
                yield f"{prefix}.ff.net.2", channels, channels * 4, True
    yield "proj_out", channels, channels, True


def ldm_unet(unet: UNet, width: float = 1.0) -> Named:
    """Names (without ``model.diffusion_model.``) and shapes of *unet*.

    *width* scales hidden widths, each on its own; the first convolution, the context width of the cross
    attention and the width of the pooled conditioning stay, so that the file can still be told apart.
    """
    scale = scaler(width)
    first, last = unet.levels[0], scale(unet.levels[0])
    embedding = scale(first * 4)
    yield from linear("time_embed.0", embedding, first)
    yield from linear("time_embed.2", embedding, embedding)
    if unet.vector is not None:
        yield from linear("label_emb.0.0", embedding, unet.vector)
        yield from linear("label_emb.0.2", embedding, embedding)
    yield from conv("input_blocks.0.0", first, unet.latent_channels, 3)
    for part in parts(unet):
        inputs, outputs = scale(part.inputs), scale(part.outputs)
        if part.kind == "residual":
            yield from _residual(part, inputs, outputs, embedding)
        elif part.kind == "attention":
            yield from _attention(part, outputs, unet)
        else:
            yield from conv(part.ldm, outputs, inputs, 3)
    yield from norm("out.0", last)
    yield from conv("out.2", unet.latent_channels, last, 3)


def _residual(part: Part, inputs: int, outputs: int, embedding: int) -> Named:
    yield from norm(f"{part.ldm}.in_layers.0", inputs)
    yield from conv(f"{part.ldm}.in_layers.2", outputs, inputs, 3)
    yield from linear(f"{part.ldm}.emb_layers.1", outputs, embedding)
    yield from norm(f"{part.ldm}.out_layers.0", outputs)
    yield from conv(f"{part.ldm}.out_layers.3", outputs, outputs, 3)
    if part.inputs != part.outputs:
        yield from conv(f"{part.ldm}.skip_connection", outputs, inputs, 1)


def _attention(part: Part, channels: int, unet: UNet) -> Named:
    yield from norm(f"{part.ldm}.norm", channels)
    for name, outputs, inputs, bias in attention_layers(unet, channels, part.depth):
        full = f"{part.ldm}.{name}"
        if name.startswith("proj_") and not unet.linear_projection:
            yield from conv(full, outputs, inputs, 1)
        else:
            yield from linear(full, outputs, inputs, bias=bias)
        if name.endswith(".attn2.to_out.0"):
            block = full.removesuffix(".attn2.to_out.0")
            for n in (1, 2, 3):
                yield from norm(f"{block}.norm{n}", channels)
