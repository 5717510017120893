"""The UNets of Stable Diffusion in both layouts.

LDM numbers the blocks of ``UNetModel`` through (CompVis/latent-diffusion, ``openaimodel.py``): each has a residual
block, perhaps an attention behind it, and a resampler has a number of its own on the way down and none on the way up.
diffusers numbers resolution levels (``UNet2DConditionModel``), and within them residual blocks and attentions each by
themselves. How many of what there are is read from the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelhub.convert.layouts.base import Modules, Place, Shapes, both, last_of

_BEGINNING = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
}
_END = {
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
_TRANSFORMER = tuple(
    [f"{attention}.to_{matrix}.weight" for attention in ("attn1", "attn2") for matrix in "qkv"]
    + [
        f"{module}.{kind}"
        for module in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")
        for kind in ("weight", "bias")
    ]
)
"""What a transformer block (``BasicTransformerBlock``) holds, under the same names in both."""

SDXL_CONTEXTS = (2048, 1280)
"""Widths of the text encodings of SDXL and its refiner: there ``label_emb`` is diffusers' ``add_embedding``, elsewhere
its ``class_embedding`` (diffusers 0.42, ``single_file_utils.py``)."""


@dataclass(frozen=True, slots=True)
class Residual:
    """A residual block: whether its channels change, and the depth of the attention behind it (0: there is none)."""

    shortcut: bool
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Structure:
    """The blocks of a UNet: *down* and *up* by level in the order in which they run, *middle* none, one or two.

    *pooled* is diffusers' name of the network that takes the pooled conditioning.
    """

    down: tuple[tuple[Residual, ...], ...]
    middle: tuple[Residual, ...]
    up: tuple[tuple[Residual, ...], ...]
    pooled: str | None


def ldm_places(shapes: Shapes) -> Iterator[Place]:
    """The places of a UNet with the LDM names and *shapes*."""
    return _places(from_ldm(shapes))


def diffusers_places(shapes: Shapes) -> Iterator[Place]:
    """The places of a UNet with the diffusers names and *shapes*."""
    return _places(from_diffusers(shapes))


def from_ldm(shapes: Shapes) -> Structure:
    """The blocks of a UNet with the LDM names and *shapes*."""
    modules = Modules(shapes)

    def residual(name: str, attention: str = "") -> Residual:
        ends = shapes.get(f"{name}.in_layers.0.weight"), shapes.get(f"{name}.out_layers.0.weight")
        return Residual(ends[0] != ends[1], modules.count(f"{attention}.transformer_blocks") if attention else 0)

    down: list[tuple[Residual, ...]] = []
    level: list[Residual] = []
    for i in range(1, modules.count("input_blocks")):
        if f"input_blocks.{i}.0.op" in modules:
            down.append(tuple(level))
            level = []
        else:
            level.append(residual(f"input_blocks.{i}.0", f"input_blocks.{i}.1"))
    down.append(tuple(level))
    middle: tuple[Residual, ...] = ()
    if "middle_block.0" in modules:
        middle = (residual("middle_block.0", "middle_block.1"),)
    if "middle_block.2" in modules:
        middle += (residual("middle_block.2"),)
    up: list[tuple[Residual, ...]] = []
    level = []
    for i in range(modules.count("output_blocks")):
        level.append(residual(f"output_blocks.{i}.0", f"output_blocks.{i}.1"))
        if any(f"output_blocks.{i}.{j}.conv" in modules for j in (1, 2)):
            up.append(tuple(level))
            level = []
    up.append(tuple(level))
    pooled = None
    if "label_emb.0" in modules:
        context = last_of(shapes, ".attn2.to_k.weight")
        pooled = "add_embedding" if context in SDXL_CONTEXTS else "class_embedding"
    return Structure(tuple(down), middle, tuple(up), pooled)


def from_diffusers(shapes: Shapes) -> Structure:
    """The blocks of a UNet with the diffusers names and *shapes*."""
    modules = Modules(shapes)

    def residual(block: str, number: int) -> Residual:
        name = f"{block}.resnets.{number}"
        ends = shapes.get(f"{name}.norm1.weight"), shapes.get(f"{name}.norm2.weight")
        return Residual(ends[0] != ends[1], modules.count(f"{block}.attentions.{number}.transformer_blocks"))

    def levels(side: str) -> tuple[tuple[Residual, ...], ...]:
        return tuple(
            tuple(residual(f"{side}.{i}", j) for j in range(modules.count(f"{side}.{i}.resnets")))
            for i in range(modules.count(side))
        )

    middle = tuple(residual("mid_block", j) for j in range(modules.count("mid_block.resnets")))
    pooled = next((name for name in ("add_embedding", "class_embedding") if name in modules), None)
    return Structure(levels("down_blocks"), middle, levels("up_blocks"), pooled)


def _places(unet: Structure) -> Iterator[Place]:
    yield from lower_places(unet)
    for ldm, diffusers in _END.items():
        yield from both(ldm, diffusers)
    index = 0
    for level, blocks in enumerate(unet.up):
        name = f"up_blocks.{level}"
        for j, block in enumerate(blocks):
            yield from _block(f"output_blocks.{index}", name, j, block)
            index += 1
        if blocks and level < len(unet.up) - 1:
            behind = 2 if blocks[-1].depth else 1
            yield from both(f"output_blocks.{index - 1}.{behind}.conv", f"{name}.upsamplers.0.conv")


def lower_places(unet: Structure) -> Iterator[Place]:
    """The places of *unet* down to its middle, which a ControlNet has too."""
    for ldm, diffusers in _BEGINNING.items():
        yield from both(ldm, diffusers)
    if unet.pooled is not None:
        yield from both("label_emb.0.0", f"{unet.pooled}.linear_1")
        yield from both("label_emb.0.2", f"{unet.pooled}.linear_2")

    index = 1
    for level, blocks in enumerate(unet.down):
        name = f"down_blocks.{level}"
        for j, block in enumerate(blocks):
            yield from _block(f"input_blocks.{index}", name, j, block)
            index += 1
        if level < len(unet.down) - 1:
            yield from both(f"input_blocks.{index}.0.op", f"{name}.downsamplers.0.conv")
            index += 1

    for j, block in enumerate(unet.middle):
        yield from _residual(f"middle_block.{2 * j}", f"mid_block.resnets.{j}", block)
    if unet.middle and unet.middle[0].depth:
        yield from _attention("middle_block.1", "mid_block.attentions.0", unet.middle[0].depth)


def _block(ldm: str, diffusers: str, number: int, block: Residual) -> Iterator[Place]:
    yield from _residual(f"{ldm}.0", f"{diffusers}.resnets.{number}", block)
    if block.depth:
        yield from _attention(f"{ldm}.1", f"{diffusers}.attentions.{number}", block.depth)


def _residual(ldm: str, diffusers: str, block: Residual) -> Iterator[Place]:
    for theirs, ours in _RESIDUAL.items():
        yield from both(f"{ldm}.{theirs}", f"{diffusers}.{ours}")
    if block.shortcut:
        yield from both(f"{ldm}.skip_connection", f"{diffusers}.conv_shortcut")


def _attention(ldm: str, diffusers: str, depth: int) -> Iterator[Place]:
    for end in ("norm", "proj_in", "proj_out"):
        yield from both(f"{ldm}.{end}", f"{diffusers}.{end}")
    for block in range(depth):
        for name in _TRANSFORMER:
            inner = f"transformer_blocks.{block}.{name}"
            yield Place(f"{ldm}.{inner}", (f"{diffusers}.{inner}",))
