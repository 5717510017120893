"""How strongly an adapter is applied, and how people write that.

``FILE``, ``FILE:0.8`` or ``FILE:`` and, with commas, numbers for parts: a component (``unet``, ``transformer``, ``te``:
all text encoders, ``te1`` ...), a block (``IN04``, ``M00``, ``OUT11``, ``BASE``: the text encoders, ``D07``, ``S12``,
``J03``; FLUX's ``CLIP``, ``T5``, ``IN`` and ``OUT``), or a pattern with wildcards over the base's tensor names.
``lbw=1/0/0.5/...`` is the row of 12, 17, 20, 26 or 61 block weights of hako-mikan's sd-webui-lora-block-weight and
sd-webui-supermerger. What fits of component, block and pattern is multiplied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase

from modelhub.errors import SettingsError
from modelhub.merge.base import AdapterUse, Weights

COMPONENTS: Mapping[str, str] = {
    "unet": "denoiser",
    "transformer": "denoiser",
    "te": "text_encoders",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
    "te3": "text_encoder_3",
}
"""Words for components."""


def _numbered(name: str, *runs: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{name}{number:02}" for run in runs for number in run)


ROWS: Mapping[int, tuple[str, ...]] = {
    12: ("BASE", *_numbered("IN", (4, 5, 7, 8)), "M00", *_numbered("OUT", range(6))),
    17: ("BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "M00", *_numbered("OUT", range(3, 12))),
    20: ("BASE", *_numbered("IN", range(9)), "M00", *_numbered("OUT", range(9))),
    26: ("BASE", *_numbered("IN", range(12)), "M00", *_numbered("OUT", range(12))),
    61: ("CLIP", "T5", "IN", *_numbered("D", range(19)), *_numbered("S", range(38)), "OUT"),
}
"""The blocks of a row of so many weights: LoRAs of SDXL and SD 1, LyCORIS of SDXL and SD 1 (sd-webui-lora-block-weight,
``BLOCKIDXLL``, ``BLOCKID17``, ``BLOCKIDXL``, ``BLOCKID26``), and FLUX (sd-webui-supermerger, ``BLOCKIDFLUX``). The
UNet's blocks that a row does not name have 0 (``to26`` of both)."""

ENCODER_BLOCKS = frozenset({"CLIP", "T5"})
"""Blocks that are text encoders, for which ``BASE`` says the weight where they have none of their own."""

_BLOCK = re.compile(r"BASE|CLIP|T5|(IN|OUT)(\d\d)?|[DSJ]\d\d|M00")
_HINT = "write FILE:0.8 or FILE:unet=1,te=0.4,IN04=0.5,lbw=1/1/0/..."


def adapter_use(text: str) -> AdapterUse:
    """An adapter as it is named on the command line. Raises :class:`SettingsError`."""
    path, colon, tail = text.rpartition(":")
    if not colon or not path or (os.path.exists(text) and not os.path.exists(path)):
        return AdapterUse(text)
    if not re.match(r"[^=/\\]*=|[-+.\d]", tail):
        return AdapterUse(text)
    return AdapterUse(path, parsed(tail))


def parsed(text: str, components: Mapping[str, str] = COMPONENTS) -> Weights:
    """The weights in *text*, what follows the colon; *components* are the words for them.

    Raises :class:`SettingsError`.
    """
    overall = 1.0
    named: dict[str, float] = {}
    row: tuple[float, ...] = ()
    given: set[str] = set()
    for item in text.split(","):
        key, equals, value = item.rpartition("=")
        if not equals:
            overall = number(item)
        elif key == "lbw":
            row = tuple(map(number, value.split("/")))
        else:
            named[key] = number(value)
        if key in given:
            raise SettingsError(f"two weights of {key!r:.80}" if key else "two weights of all", hint=_HINT)
        given.add(key)
    return weights(overall, named, row, components)


def weights(
    overall: float,
    named: Mapping[str, float],
    row: Sequence[float] = (),
    words: Mapping[str, str] = COMPONENTS,
) -> Weights:
    """Weights of *named* components, blocks and patterns, and of a *row* of blocks; *words* are those for components.

    Raises :class:`SettingsError`.
    """
    blocks: dict[str, float] = {}
    if row:
        if len(row) not in ROWS:
            counts = ", ".join(map(str, ROWS))
            raise SettingsError(f"{len(row)} block weights: there are rows of {counts}", hint=_HINT)
        unnamed = ROWS[26] if len(row) < 26 else ()
        blocks = dict.fromkeys(unnamed, 0.0) | dict(zip(ROWS[len(row)], row, strict=True))
    components: dict[str, float] = {}
    tensors: dict[str, float] = {}
    for key, value in named.items():
        if key in words:
            if words[key] in components:
                raise SettingsError(f"two weights of the {words[key]}, the second as {key!r}", hint=_HINT)
            components[words[key]] = value
        elif _BLOCK.fullmatch(key):
            blocks[key] = value
        elif any(mark in key for mark in "*?[."):
            tensors[key] = value
        else:
            raise SettingsError(f"{key!r:.80} is no component, no block and no pattern", hint=_HINT)
    return Weights(overall, components, blocks, tensors)


def named_weights(given: Weights, components: Mapping[str, str] = COMPONENTS) -> dict[str, float]:
    """The components, blocks and patterns of *given* under the words of :func:`weights`."""
    words = {component: word for word, component in components.items() if word != "transformer"}
    parts = {words[component]: value for component, value in given.components.items()}
    return {**parts, **given.blocks, **given.tensors}


def block_weight(given: Weights, block: str) -> float | None:
    """The weight that *given* has of *block*; ``None`` where it says none."""
    if block in ENCODER_BLOCKS and block not in given.blocks:
        block = "BASE"
    return given.blocks.get(block)


def strength_of(given: Weights, components: Sequence[str], block: str, tensor: str) -> float:
    """The strength for the *tensor* of the base that is in *block* of the component that is called *components*, of
    which the first counts that has a weight."""
    strength = given.overall
    named = next((each for each in components if each in given.components), None)
    if named is not None:
        strength *= given.components[named]
    elif components[0].startswith("text_encoder") and "text_encoders" in given.components:
        strength *= given.components["text_encoders"]
    in_block = block_weight(given, block)
    strength *= 1.0 if in_block is None else in_block
    for pattern, value in reversed(list(given.tensors.items())):
        if fnmatchcase(tensor, pattern):
            return strength * value
    return strength


def without_use(
    given: Weights,
    tensors: Collection[str],
    blocks: Collection[str],
    components: Collection[str],
    words: Mapping[str, str] = COMPONENTS,
) -> tuple[str, ...]:
    """What *given* has a weight of and a base of *tensors* in *blocks* of *components* has not, as people write it."""
    encoders = any(component.startswith("text_encoder") for component in components)
    there = {*blocks, *(("BASE",) if encoders else ())}
    known = {*components, *(("text_encoders",) if encoders else ())}
    lacking = given.components.keys() - known
    return (
        *(word for word, component in words.items() if component in lacking and word != "transformer"),
        *(block for block, value in given.blocks.items() if block not in there and (value or block not in ROWS[26])),
        *(each for each in given.tensors if not any(fnmatchcase(name, each) for name in tensors)),
    )


def number(given: object) -> float:
    """The weight *given*, a number or the text of one. Raises :class:`SettingsError`."""
    value = float("nan")
    if isinstance(given, str | int | float) and not isinstance(given, bool):
        with suppress(ValueError, OverflowError):
            value = float(given)
    if not -1e6 < value < 1e6:
        raise SettingsError(f"{given!r:.60} is no weight", hint=_HINT)
    return value
