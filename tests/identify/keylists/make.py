"""Write ``modules.json.xz``: what published models are called inside, taken from diffusers' and transformers' own code.

``published.json`` names each module's class and the hyperparameters of its published configuration; it is built on the
meta device, so no weights come to be. Run ``python -m tests.identify.keylists.make`` where diffusers and transformers
are installed; the tests read what it wrote.
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
from typing import Any

import torch

HERE = os.path.dirname(__file__)


def build(library: str, kind: str | list[str], config: dict[str, Any]) -> torch.nn.Module:
    """The module of the class *kind* (of transformers: the model's and its configuration's), without weights."""
    source = importlib.import_module(library)
    with torch.device("meta"):
        if isinstance(kind, str):
            module: torch.nn.Module = getattr(source, kind)(**config)
        else:
            module = getattr(source, kind[0])(getattr(source, kind[1])(**config))
    return module


def main() -> None:
    with open(os.path.join(HERE, "published.json")) as file:
        published = json.load(file)
    lists = {
        name: {key: list(tensor.shape) for key, tensor in build(*entry).state_dict().items()}
        for name, entry in published.items()
    }
    with lzma.open(os.path.join(HERE, "modules.json.xz"), "wt", preset=9 | lzma.PRESET_EXTREME) as file:
        json.dump(lists, file, separators=(",", ":"))


if __name__ == "__main__":
    main()
