"""How much of each model there is in a blend, and how people write that.

``0.3``, or with commas numbers for parts in the words of :mod:`modelhub.merge.weights`, and ``vae``:
``0.3,te=0,IN04=1``. A row of block weights, ``0/0.5/1/...`` or with commas, is that of sd-webui-supermerger. They are
not multiplied: of a tensor the last pattern that fits says the ratio, else its block, else its component, else the
number alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from modelhub.merge import Weights
from modelhub.merge.weights import COMPONENTS, block_weight, number, parsed, weights

WORDS: Mapping[str, str] = {**COMPONENTS, "vae": "vae"}
"""Words for components."""


def parsed_ratios(text: str) -> Weights:
    """The ratios in *text*. Raises :class:`~modelhub.errors.SettingsError`."""
    return parsed(text, WORDS)


def with_blocks(given: Weights, text: str) -> Weights:
    """*given* with the ratios of blocks in *text*: a row of them, or named ones. Raises :class:`SettingsError`."""
    if "=" in text:
        more = parsed(text, WORDS)
    else:
        more = weights(1.0, {}, [number(value) for value in text.replace("/", ",").split(",")], WORDS)
    return replace(
        given,
        components={**given.components, **more.components},
        blocks={**given.blocks, **more.blocks},
        tensors={**given.tensors, **more.tensors},
    )


_EDGES = {
    "IN00": ("time_embed.", "label_emb.", "time_embedding.", "add_embedding.", "class_embedding."),
    "OUT": ("out.", "conv_norm_out.", "conv_out."),
}
"""What of a UNet lies before its blocks and behind them, under LDM's and diffusers' names."""


def edge_block(name: str, blocks: Collection[str]) -> str:
    """The block whose ratio the tensor *name* has that is in none of a UNet's *blocks*: the first, or the last.

    That is sdweb-merge-block-weighted-gui's rule (``merge_block_weighted.py``), and behind them supermerger's.
    """
    block = next((block for block, begins in _EDGES.items() if name.startswith(begins)), "")
    return max((each for each in blocks if each.startswith("OUT")), default="") if block == "OUT" else block


def ratio_of(given: Weights, component: str, block: str, tensor: str) -> float:
    """The ratio for the *tensor* of A that is in *block* of *component*."""
    for pattern, value in reversed(list(given.tensors.items())):
        if fnmatchcase(tensor, pattern):
            return value
    in_block = block_weight(given, block)
    if in_block is not None:
        return in_block
    everywhere = given.overall
    if component.startswith("text_encoder"):
        everywhere = given.components.get("text_encoders", everywhere)
    return given.components.get(component, everywhere)
