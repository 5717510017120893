"""Minimal reproducers: as little as possible of a sequence that still shows what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Parts = TypeVar("Parts", bound=Sequence[object])


def shrunk(parts: Parts, shows: Callable[[Parts], bool], most: int = 400) -> Parts:
    """The shortest sequence found in at most *most* tries by leaving out runs of *parts* that still *shows* it."""
    tries = 0
    run = max(1, len(parts) // 2)
    while True:
        at = 0
        changed = False
        while at < len(parts):
            if tries >= most:
                return parts
            tries += 1
            shorter = parts[:at] + parts[at + run :]  # type: ignore[operator]
            if len(shorter) and shows(shorter):
                parts, changed = shorter, True
            else:
                at += run
        if run > 1:
            run //= 2
        elif not changed:
            return parts
