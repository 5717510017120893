"""Leaving out what no loader uses, and the averaged weights of training.

``ldm``'s training code keeps an exponential moving average (EMA) of the weights beside them, under ``model_ema.`` and
the weight's name without its dots (``LitEma`` in ``ldm/modules/ema.py``). Dots cannot be put back, so partners are
looked for from the weights' names, never the other way round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from modelhub.convert.base import Assembly, Draft
from modelhub.errors import ConversionError
from modelhub.tensors import Leftover

_EMA = "model_ema."
_UNET = "model.diffusion_model."
_VAE = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_UNUSED = ("loss.", "first_stage_model.loss.", "first_stage_model.model_ema.", "optimizer_states.", "lr_schedulers.")
"""Prefixes of what training leaves behind: discriminators and perceptual losses (VAEs), optimizer state."""


def apply_ema(draft: Draft, mode: Literal["keep", "drop", "use"], name: str) -> Draft:
    """*draft* with its averaged weights kept, dropped, or used in place of the trained ones.

    Raises :class:`ConversionError` where they are to be used and the file *name* has none, or not one of the same shape
    for every weight of the UNet (of the autoencoder, in an autoencoder's file).
    """
    averaged = [key for key in draft.tensors if key.startswith(_EMA)]
    if mode == "keep" or (mode == "drop" and not averaged):
        return draft
    tensors = {key: made for key, made in draft.tensors.items() if not key.startswith(_EMA)}
    size = sum(draft.tensors[key].nbytes for key in averaged)
    if mode == "drop":
        left = [Leftover(key, "an averaged weight, dropped") for key in averaged]
        return draft.changed(tensors, f"averaged weights dropped: {len(averaged)} tensors, {size:,} bytes", left=left)
    weights = [key for key in tensors if key.startswith(_UNET)] or [key for key in tensors if key.startswith(_VAE)]
    if not averaged or not weights:
        hint = "leave out --ema: its weights are the only ones"
        raise ConversionError(f"{name}: there are no averaged weights (model_ema.*) in it to use", hint=hint)
    used: set[str] = set()
    for key in weights:
        partner = _EMA + key.removeprefix("model.").replace(".", "")
        made = draft.tensors.get(partner)
        if made is None or made.shape != tensors[key].shape:
            what = "no averaged weight" if made is None else "an averaged weight of another shape"
            raise ConversionError(f"{name}: tensor {key!r:.100} has {what}, so the averaged ones cannot be used")
        tensors[key] = made
        used.add(partner)
    left = [Leftover(key, "a part of the averaged weights without a use") for key in averaged if key not in used]
    left += [Leftover(key, "replaced by its averaged weight") for key in weights]
    return draft.changed(tensors, f"averaged weights used in place of the trained ones: {len(used)} tensors", left=left)


def select(draft: Draft, include: Sequence[str], exclude: Sequence[str], name: str) -> Draft:
    """*draft* with the tensors whose names fit one of *include* (none given: all) and none of *exclude*.

    Both are :mod:`fnmatch`'s wildcards. Raises :class:`ConversionError` for one that fits no tensor of the file *name*:
    it is misspelt, and nobody should find that out later.
    """
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(key, pattern) for key in draft.tensors):
            hint = "modelhub inspect --tensors lists their names"
            raise ConversionError(f"{name}: no tensor's name fits {pattern!r:.100}", hint=hint)
    kept = {
        key: made
        for key, made in draft.tensors.items()
        if (not include or any(fnmatchcase(key, pattern) for pattern in include))
        and not any(fnmatchcase(key, pattern) for pattern in exclude)
    }
    left = [Leftover(key, "a tensor that was not asked for") for key in draft.tensors if key not in kept]
    return draft.changed(kept, left=left)


def prune(draft: Draft) -> Draft:
    """*draft* without what no loader uses: losses and their networks, optimizer state, averages of the autoencoder."""
    left: list[Leftover] = []
    counts: Counter[str] = Counter()
    tensors: dict[str, Assembly] = {}
    for key, made in draft.tensors.items():
        prefix = next((prefix for prefix in _UNUSED if key.startswith(prefix)), None)
        if prefix is None:
            tensors[key] = made
        else:
            counts[prefix] += 1
            left.append(Leftover(key, "a tensor that no loader uses, pruned"))
    notes = [f"pruned: {count} tensors under {prefix}*" for prefix, count in counts.items()]
    return draft.changed(tensors, *notes, left=left)
