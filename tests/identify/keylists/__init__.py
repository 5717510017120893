"""Lists of tensor names and shapes of published models, taken from the libraries that define them."""

from __future__ import annotations

import json
import lzma
import os
from functools import cache

Shapes = dict[str, tuple[int, ...]]


@cache
def modules() -> dict[str, Shapes]:
    """Every list by its name in ``make.py``."""
    with lzma.open(os.path.join(os.path.dirname(__file__), "modules.json.xz"), "rt") as file:
        lists = json.load(file)
    return {name: {key: tuple(shape) for key, shape in shapes.items()} for name, shapes in lists.items()}
