"""Small upscalers."""

from __future__ import annotations

import torch

from modelhub.samples.runnable import Weights


def compact(scale: int = 4, *, size: float = 0.0, channels: int = 3) -> Weights:
    """A network of Real-ESRGAN's compact sort: what it adds to the nearest pixels has the deviation *size*."""
    generator = torch.Generator().manual_seed(2)
    last = 2 * 2 + 2
    widths = [(8, channels), *[(8, 8)] * 2, (channels * scale**2, 8)]
    made: Weights = {}
    for place, (outputs, inputs) in zip(range(0, last + 1, 2), widths, strict=True):
        factor = size if place == last else 0.2
        made[f"body.{place}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * factor
        made[f"body.{place}.bias"] = torch.randn(outputs, generator=generator) * factor
        if place < last:
            made[f"body.{place + 1}.weight"] = torch.full((outputs,), 0.1)
    return made
