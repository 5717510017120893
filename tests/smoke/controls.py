"""Small ControlNets and T2I-Adapters for the small models of :mod:`modelhub.samples.runnable`."""

from __future__ import annotations

import torch

from modelhub.convert.layouts import to_controlnet, to_t2i_adapter
from modelhub.samples.runnable import UNET, UNETS, Weights, shapes

_COPIED = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")
_HINT = (16, 16, 32, 32, 96, 96, 256)


def controlnet(architecture: str = "sd-1", *, prefix: str = "control_model.") -> Weights:
    """A ControlNet of random weights under LDM's names, the convolutions behind it among them."""
    named = {
        name.removeprefix(UNET): shape
        for name, shape in shapes(architecture).items()
        if name.startswith(UNET) and name.removeprefix(UNET).startswith(_COPIED)
    }
    unet = UNETS[architecture]
    widths = (*_HINT, unet.levels[0])
    for i, (inputs, outputs) in enumerate(zip((3, *widths[:-1]), widths, strict=True)):
        named |= {f"input_hint_block.{2 * i}.weight": (outputs, inputs, 3, 3)}
        named |= {f"input_hint_block.{2 * i}.bias": (outputs,)}
    last = len(unet.levels) - 1
    skips = [unet.levels[0]] + [w for i, w in enumerate(unet.levels) for w in (w,) * (2 if i == last else 3)]
    for i, width in enumerate(skips):
        named |= {f"zero_convs.{i}.0.weight": (width, width, 1, 1), f"zero_convs.{i}.0.bias": (width,)}
    width = unet.levels[-1]
    named |= {"middle_block_out.0.weight": (width, width, 1, 1), "middle_block_out.0.bias": (width,)}
    generator = torch.Generator().manual_seed(9)
    return {prefix + name: torch.randn(shape, generator=generator) * _size(name) for name, shape in named.items()}


def _size(name: str) -> float:
    """The deviation of weights: the picture comes through eight layers, and the UNet is changed a little."""
    if name.startswith(("zero_convs", "middle_block_out")):
        return 0.0001
    return 0.2 if name.startswith("input_hint_block") else 0.05


def t2i_adapter(architecture: str = "sd-1", *, channels: int = 3) -> Weights:
    """A T2I-Adapter of random weights under the names of its authors."""
    levels = UNETS[architecture].levels
    widths = levels if len(levels) == 4 else (*levels, levels[-1])
    folded = channels * (256 if architecture == "sdxl" else 64)
    named: dict[str, tuple[int, ...]] = {"conv_in.weight": (widths[0], folded, 3, 3), "conv_in.bias": (widths[0],)}
    before = widths[0]
    for i, width in enumerate(widths):
        for j in range(2):
            block = f"body.{2 * i + j}"
            if j == 0 and before != width:
                named |= {f"{block}.in_conv.weight": (width, before, 1, 1), f"{block}.in_conv.bias": (width,)}
            named |= {f"{block}.block1.weight": (width, width, 3, 3), f"{block}.block1.bias": (width,)}
            named |= {f"{block}.block2.weight": (width, width, 1, 1), f"{block}.block2.bias": (width,)}
        before = width
    generator = torch.Generator().manual_seed(9)
    return {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in named.items()}


def under_diffusers_names(weights: Weights) -> Weights:
    """The same under the names that diffusers gives it."""
    named = {name: tuple(weight.shape) for name, weight in weights.items()}
    steers = any("input_hint_block" in name for name in named)
    ((_, pieces),) = (to_controlnet if steers else to_t2i_adapter)(named).components.items()
    return {name: weights[view.name] for name, (view,) in pieces.items()}
