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
from typing import Any

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
    tables_of,
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
    models = tables_of(table, "model", path)
    for each in models:
        check_keys(each, {"path": "text", "sha256": "table"}, path, "a model")
    ratios: list[Any] = [table.get("alpha"), table.get("beta", {"weight": 0.0})]
    for word, each in zip(("alpha", "beta"), ratios, strict=True):
        check_keys(each, WEIGHT_KEYS, path, word)
    method = next((each for each in TAKES if each == table.get("method")), None)
    if method is None or len(models) not in TAKES[method]:
        raise SettingsError(f"{path}: {table.get('method')!r:.60} of {len(models)} models is no blend")
    alpha, beta = (weights_of(each, path, WORDS) for each in ratios)
    return BlendRecipe(
        method,
        tuple(os.path.join(folder, each["path"]) for each in models),
        alpha,
        beta,
        precision_of(table, path),
        tuple({key: str(value) for key, value in each.get("sha256", {}).items()} for each in models),
        path,
        output_of(table, path),
    )
