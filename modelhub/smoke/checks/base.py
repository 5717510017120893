"""How a check is written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelhub.smoke.spec import Check

Told = Mapping[str, Any]
"""What a worker told under one name."""

GPU_TOLERANCE = 1e-2
"""Largest difference between latents of equal runs on a GPU; on a CPU they are equal."""


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
