"""How a check is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelhub.smoke.spec import Check

Told = Mapping[str, Any]
"""What a worker told under one name."""

GPU_TOLERANCE = 1e-2
"""Largest difference between latents of equal runs on a GPU; on a CPU they are equal."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which measurements on a model is suspect, and where that comes from.

    *probe* is the error of one denoising at half noise, of which predicting nothing makes 1: small trained networks
    have 0.01 to 0.03, with 10 % noise on their weights 0.04, with 50 % 0.8; random ones 0.6. *deviation* is between
    what the standard deviation of finished latents has to be: 1 by the definition of the scaling factor; random
    networks have 7 to 26. *psnr*, in dB, is of a VAE's round trip: Stable Diffusion's reaches 23.4 on photographs of
    COCO (the model card of stabilityai/sd-vae-ft-mse), and more on what is drawn; a random one 9.
    """

    probe: float = 0.3
    deviation: tuple[float, float] = (0.3, 2.5)
    psnr: float = 20.0
    origin: str = "modelhub's own"


def finite(name: str, share: float, what: str) -> Check:
    if share:
        return check(name, "failed", share, "= 0", f"{what} is NaN or infinite")
    return check(name, "passed", 0, "= 0", f"{what} is finite")


def check(name: str, outcome: Any, value: float | None, threshold: str, sentence: str) -> Check:
    return Check(name, outcome, value, threshold, sentence)


def counted(name: str, told: Told, words: str, fine: str) -> Check:
    count = int(told["count"])
    if not count:
        return check(name, "passed", 0, "= 0", fine)
    others = f" and {count - 1} others" if count > 1 else ""
    return check(name, "failed", count, "= 0", f"{words} {told['names'][0]!r:.150}{others}")


def allowed_difference(device: str) -> float:
    """How far equal runs on *device* may be apart."""
    return 0.0 if device.startswith("cpu") else GPU_TOLERANCE
