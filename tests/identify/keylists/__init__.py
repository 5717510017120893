"""Lists of tensor names and shapes of published models, taken from the libraries that define them."""

from __future__ import annotations

import json
import lzma
import os
from functools import cache

Shapes = dict[str, tuple[int, ...]]


def modules() -> dict[str, Shapes]:
    """Every list of diffusers and transformers by its name in ``published.json``."""
    return _read("modules.json.xz")


def upscalers() -> dict[str, Shapes]:
    """Upscalers and restorers by class: those of spandrel 0.4.2 (MIT), built with their defaults."""
    return _read("upscalers.json.xz")


@cache
def _read(name: str) -> dict[str, Shapes]:
    with lzma.open(os.path.join(os.path.dirname(__file__), name), "rt") as file:
        lists = json.load(file)
    return {name: {key: tuple(shape) for key, shape in shapes.items()} for name, shapes in lists.items()}


@cache
def telling() -> dict[str, tuple[str | None, frozenset[str], dict[str, tuple[int, ...]]]]:
    """Files of few tensors, as they are published: kind, architectures and shapes of each by a name for it."""
    with open(os.path.join(os.path.dirname(__file__), "telling.json"), encoding="utf-8") as file:
        rows = json.load(file)
    return {
        row["name"]: (
            row["kind"],
            frozenset(row["architectures"]),
            {name: tuple(shape) for name, shape in row["tensors"].items()},
        )
        for row in rows
    }
