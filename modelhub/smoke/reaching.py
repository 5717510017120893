"""How far the values within a module reach: whether they would fit a narrower type than the one it runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

_SUMS = (torch.nn.Conv2d, torch.nn.Linear, ResnetBlock2D, Attention)
"""Modules that sum: what stands between them is normalised, or gets no larger."""


@contextmanager
def reached(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within it, the largest absolute value of whatever the parts of *module* make is added to the list, each on the
    module's device."""
    largest: list[torch.Tensor] = []

    def look(_module: Any, _inputs: Any, made: torch.Tensor) -> None:
        low, high = made.aminmax()
        largest.append(torch.maximum(-low, high))

    hooks = [each.register_forward_hook(look) for each in module.modules() if isinstance(each, _SUMS)]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()
