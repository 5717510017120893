"""A user's own prompts, and how they are sampled:

    prompts = ["a lighthouse in a storm", "a bowl of lemons"]  # two or more, the image is made of the first one
    negative = "blurry, text"                                  # absent: no words
    seeds = [0, 1, 2]                                          # absent: --seed, and the two after it
    guidance = 5.5                                             # absent: the model's own, mostly 7
    steps = 30                                                 # absent: those of the preset
    size = 768                                                 # pixels, a multiple of 64; absent: that of the preset

What an option says goes before what the file says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from modelhub.errors import Malformed
from modelhub.smoke.spec import Settings
from modelhub.user_files import read_user_file

_MOST = 16
"""Prompts, and seeds: 256 images of one model."""

SEEDS, STEPS, SIZES = (0, 2**63 - 1), (1, 150), (64, 2048)
_GUIDANCE = (0.0, 50.0)


def with_prompts(settings: Settings, path: str) -> Settings:
    """*settings*, and where they leave it open what the TOML file *path* says (see the module).

    Raises :class:`~modelhub.errors.NotFound`, :class:`~modelhub.errors.AccessDenied` or
    :class:`~modelhub.errors.SourceError` when the file cannot be read, and :class:`~modelhub.errors.Malformed` for
    anything that the module does not name, and for values that are none.
    """
    try:
        said = _checked(tomllib.loads(read_user_file(path, "file of prompts").decode("utf-8")))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError, too
        raise Malformed(f"{path}: not a file of prompts: {error}", hint=_HINT) from error
    given = {name: value for name, value in said.items() if getattr(settings, name) in (None, *_DEFAULTS[name])}
    if settings.seed is not None:
        given.pop("seeds", None)
    return replace(settings, **given)


def _checked(said: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in said.items():
        if name not in _FIELDS:
            near = get_close_matches(name, _FIELDS, n=1, cutoff=0)
            raise ValueError(f"there is no {name!r:.60}; the nearest is {near[0]!r}")
        wanted, fits = _FIELDS[name]
        if not fits(value):
            raise ValueError(f"{name} is {value!r:.60}, not {wanted}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def _number_within(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and least <= value <= most


def _whole_within(bounds: tuple[int, int], step: int = 1) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and bounds[0] <= value <= bounds[1] and value % step == 0


def _different(least: int, fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and least <= len(value) <= _MOST
        and all(map(fits, value))
        and len(set(value)) == len(value)
    )


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "prompts": (
        f"a list of 2 to {_MOST} different texts",
        _different(2, lambda text: isinstance(text, str) and bool(text.strip())),
    ),
    "negative": ("a text", lambda value: isinstance(value, str)),
    "seeds": (f"a list of 1 to {_MOST} different whole numbers from 0", _different(1, _whole_within(SEEDS))),
    "guidance": (f"a number from {_GUIDANCE[0]:g} to {_GUIDANCE[1]:g}", _number_within(*_GUIDANCE)),
    "steps": (f"a whole number from {STEPS[0]} to {STEPS[1]}", _whole_within(STEPS)),
    "size": (f"a multiple of 64 from {SIZES[0]} to {SIZES[1]}", _whole_within(SIZES, 64)),
}
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    name: (getattr(Settings(), name),) for name in ("prompts", "negative", "seeds", "guidance", "steps", "size")
}
_HINT = "a file of prompts may have: " + ", ".join(_FIELDS) + "; see docs/smoke.md"
