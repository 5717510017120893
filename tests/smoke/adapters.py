"""Small adapters for the small models of :mod:`modelhub.samples.runnable`."""

from __future__ import annotations

import functools

import torch

from modelhub.convert.layouts import diffusers_views, viewed_shape
from modelhub.samples.runnable import Weights, shapes

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_CHANGED = (".to_q.weight", ".to_k.weight", ".to_v.weight", ".q_proj.weight", ".fc1.weight")


@functools.cache
def modules(architecture: str) -> dict[str, tuple[int, ...]]:
    """kohya's names of the matrices that are changed, and their shapes."""
    told = shapes(architecture)
    made = {}
    for component, named in diffusers_views(told).items():
        for name, views in named.items():
            if name.endswith(_CHANGED) and component in PREFIXES:
                prefix = PREFIXES[component]
                if architecture != "sdxl":
                    prefix = prefix.replace("te1", "te")
                stem = name.removesuffix(".weight").replace(".", "_")
                made[f"{prefix}_{stem}"] = viewed_shape(views, {each.name: told[each.name] for each in views})
    return made


def adapter(architecture: str = "sd-1", algorithm: str = "lora", size: float = 0.2) -> Weights:
    """An adapter of *algorithm* for every one of :func:`modules`; *size* is the deviation of its numbers."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * size

    made: Weights = {}
    for name, (out, inputs) in modules(architecture).items():
        made[f"{name}.alpha"] = torch.tensor(2.0)
        if algorithm in ("lora", "dora"):
            made |= {f"{name}.lora_up.weight": random(out, 2), f"{name}.lora_down.weight": random(2, inputs)}
        if algorithm == "dora":
            made[f"{name}.dora_scale"] = random(out, 1).abs() + 0.1
        if algorithm == "loha":
            made |= {f"{name}.hada_w{i}_a": random(out, 2) for i in (1, 2)}
            made |= {f"{name}.hada_w{i}_b": random(2, inputs) for i in (1, 2)}
        if algorithm == "lokr":
            made |= {f"{name}.lokr_w1": random(4, 4), f"{name}.lokr_w2": random(out // 4, inputs // 4)}
        if algorithm == "oft":
            made[f"{name}.oft_blocks"] = random(out // 8, 8, 8)
        if algorithm == "boft":
            made |= {f"{name}.boft_R": random(2, inputs // 4, 4, 4), f"{name}.boft_s": 1 + random(out, 1)}
        if algorithm == "ia3":
            made[f"{name}.ia3_l"] = 1 + random(out, 1)
    return made


def hypernetwork(widths: tuple[int, ...] = (768,), *, size: float = 0.2, norm: bool = False) -> Weights:
    """Networks of two linear layers, with a normalisation behind each if *norm*."""
    generator = torch.Generator().manual_seed(6)
    made: Weights = {}
    for width in widths:
        for which in (0, 1):
            for number, (out, inputs) in enumerate(((2 * width, width), (width, 2 * width))):
                place = number * (3 if norm else 2)
                made[f"{width}.{which}.linear.{place}.weight"] = torch.randn(out, inputs, generator=generator) * size
                made[f"{width}.{which}.linear.{place}.bias"] = torch.randn(out, generator=generator) * size
                if norm:
                    made[f"{width}.{which}.linear.{place + 2}.weight"] = torch.ones(out)
                    made[f"{width}.{which}.linear.{place + 2}.bias"] = torch.zeros(out)
    return made
