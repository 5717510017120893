"""The KL autoencoder in both layouts: CompVis/latent-diffusion's ``AutoencoderKL`` and diffusers'.

LDM counts the decoder's levels from the finest on, diffusers in the order in which they run. Its one attention is
made of 1x1 convolutions in LDM's layout and of matrices in diffusers'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelhub.convert.layouts.base import Modules, Place, Shapes, both

_RESIDUAL = ("norm1", "conv1", "norm2", "conv2")
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in the attention of autoencoders that diffusers saved before 0.16, and what it calls them since."""


@dataclass(frozen=True, slots=True)
class Structure:
    """For every level in the order in which it runs, whether each of its residual blocks changes the channels."""

    encoder: tuple[tuple[bool, ...], ...]
    decoder: tuple[tuple[bool, ...], ...]


def ldm_places(shapes: Shapes) -> Iterator[Place]:
    """The places of an autoencoder with the LDM names and *shapes*."""
    modules = Modules(shapes)

    def levels(side: str) -> tuple[tuple[bool, ...], ...]:
        return tuple(
            tuple(_shortcut(shapes, f"{side}.{i}.block.{j}") for j in range(modules.count(f"{side}.{i}.block")))
            for i in range(modules.count(side))
        )

    return _places(Structure(levels("encoder.down"), levels("decoder.up")[::-1]))


def diffusers_places(shapes: Shapes) -> Iterator[Place]:
    """The places of an autoencoder with the diffusers names and *shapes*."""
    return _places(from_diffusers(shapes))


def from_diffusers(shapes: Shapes) -> Structure:
    """The blocks of an autoencoder with the diffusers names and *shapes*."""
    modules = Modules(shapes)

    def levels(side: str) -> tuple[tuple[bool, ...], ...]:
        return tuple(
            tuple(_shortcut(shapes, f"{side}.{i}.resnets.{j}") for j in range(modules.count(f"{side}.{i}.resnets")))
            for i in range(modules.count(side))
        )

    return Structure(levels("encoder.down_blocks"), levels("decoder.up_blocks"))


def current_names(names: Shapes) -> Mapping[str, str]:
    """Names as diffusers has them now, to the names as they are in a file of whatever age."""
    current = {}
    for name in names:
        head, _, kind = name.rpartition(".")
        module, _, old = head.rpartition(".")
        new = _OLD_ATTENTION.get(old) if module.endswith("mid_block.attentions.0") else None
        current[f"{module}.{new}.{kind}" if new else name] = name
    return current


def _shortcut(shapes: Shapes, block: str) -> bool:
    return shapes.get(f"{block}.norm1.weight") != shapes.get(f"{block}.norm2.weight")


def _places(vae: Structure) -> Iterator[Place]:
    for side, levels in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        yield from both(f"{side}.conv_in", f"{side}.conv_in")
        for i, blocks in enumerate(levels):
            last = i == len(levels) - 1
            if side == "encoder":
                ldm, diffusers, sampler = f"encoder.down.{i}", f"encoder.down_blocks.{i}", "down"
            else:
                ldm, diffusers, sampler = f"decoder.up.{len(levels) - 1 - i}", f"decoder.up_blocks.{i}", "up"
            for j, shortcut in enumerate(blocks):
                yield from _residual(f"{ldm}.block.{j}", f"{diffusers}.resnets.{j}", shortcut)
            if not last:
                yield from both(f"{ldm}.{sampler}sample.conv", f"{diffusers}.{sampler}samplers.0.conv")
        yield from _middle(f"{side}.mid", f"{side}.mid_block")
        yield from both(f"{side}.norm_out", f"{side}.conv_norm_out")
        yield from both(f"{side}.conv_out", f"{side}.conv_out")
    yield from both("quant_conv", "quant_conv")
    yield from both("post_quant_conv", "post_quant_conv")


def _middle(ldm: str, diffusers: str) -> Iterator[Place]:
    yield from _residual(f"{ldm}.block_1", f"{diffusers}.resnets.0", False)
    yield from both(f"{ldm}.attn_1.norm", f"{diffusers}.attentions.0.group_norm")
    for theirs, ours in _ATTENTION.items():
        yield from both(f"{ldm}.attn_1.{theirs}", f"{diffusers}.attentions.0.{ours}", "conv")
    yield from _residual(f"{ldm}.block_2", f"{diffusers}.resnets.1", False)


def _residual(ldm: str, diffusers: str, shortcut: bool) -> Iterator[Place]:
    for module in _RESIDUAL:
        yield from both(f"{ldm}.{module}", f"{diffusers}.{module}")
    if shortcut:
        yield from both(f"{ldm}.nin_shortcut", f"{diffusers}.conv_shortcut")
