"""Recipes of blends, in TOML, beside each output and in its metadata under :data:`BLEND_KEY`. ::

schema = "modelhub.blend/1"
version = "0.1.0"               # of modelhub
output = "blended.safetensors"  # absent: what the recipe's own name says, without .recipe.toml
method = "weighted"
dtype = "keep"                  # or fp16, bf16, fp32
exact = false                   # computed in float64
seed = 7                        # rounded stochastically; absent: to the nearest

[[model]]                       # A, B and perhaps C
path = "a.safetensors"
[model.sha256]                  # by file; a folder has several
"a.safetensors" = "..."

[alpha]                         # and beta
weight = 0.3
[alpha.weights]                 # components, blocks, patterns
te = 0.5
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from modelhub.blend.base import TAKES, BlendRecipe
from modelhub.blend.ratios import WORDS
from modelhub.errors import SettingsError
from modelhub.merge.toml import (
    WEIGHT_KEYS,
    check_keys,
    head_lines,
    output_of,
    path_in,
    precision_of,
    quoted,
    read_text,
    recipe_table,
    weight_lines,
    weights_of,
)

BLEND_SCHEMA = "modelhub.blend/1"
BLEND_KEY = "modelhub.blend"
"""Metadata key; those of the blends that the models came from have numbers behind it."""


def written_blend(recipe: BlendRecipe, folder: str | None = None) -> str:
    """*recipe* as text; its paths relative to *folder*, without one the files' names alone."""
    return "\n".join(_lines(recipe, folder)) + "\n"


def _lines(recipe: BlendRecipe, folder: str | None) -> Iterator[str]:
    yield from head_lines(BLEND_SCHEMA, recipe.precision)
    yield f"method = {quoted(recipe.method)}"
    for number, path in enumerate(recipe.models):
        yield from ("", "[[model]]", f"path = {quoted(path_in(path, folder))}")
        if number < len(recipe.digests):
            yield "[model.sha256]"
            yield from (f"{quoted(name)} = {quoted(digest)}" for name, digest in recipe.digests[number].items())
    yield from ("", "[alpha]", *weight_lines(recipe.alpha, "alpha", WORDS))
    yield from ("", "[beta]", *weight_lines(recipe.beta, "beta", WORDS))


def read_blend(path: str) -> BlendRecipe:
    """The recipe in the file *path*, its paths made those of this process.

    Raises :class:`NotFound`, :class:`SourceError`, :class:`LimitExceeded` for one of more than 4 MiB, or
    :class:`SettingsError` for what is no recipe of a blend.
    """
    table = recipe_table(read_text(path), path, BLEND_SCHEMA, frozenset({"method", "model", "alpha", "beta"}))
    folder = os.path.dirname(path)
    try:
        models = table["model"]
        for each in models:
            check_keys(each, {"path", "sha256"}, path, "a model")
        for each in ("alpha", "beta"):
            check_keys(table.get(each, {}), WEIGHT_KEYS, path, each)
        method = table["method"]
        if method not in TAKES or len(models) not in TAKES[method]:
            raise SettingsError(f"{path}: {method!r:.60} of {len(models)} models is no blend")
        return BlendRecipe(
            method,
            tuple(os.path.join(folder, each["path"]) for each in models),
            weights_of(table["alpha"], WORDS),
            weights_of(table.get("beta", {"weight": 0.0}), WORDS),
            precision_of(table, path),
            tuple({str(k): str(v) for k, v in each.get("sha256", {}).items()} for each in models),
            path,
            output_of(table, path),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SettingsError(f"{path}: not a recipe: {type(error).__name__} {error!s:.100}") from error
