"""Recipes: a merge as data, in TOML.

``OUT.recipe.toml`` lies beside each output and does the same merge again; its paths are relative to it. The same text
with the files' names alone is in the output's metadata under :data:`RECIPE_KEY`. ::

    schema = "modelhub.recipe/1"
    version = "0.1.0"               # of modelhub
    output = "merged.safetensors"   # absent: what the recipe's own name says, without .recipe.toml
    dtype = "keep"                  # or fp16, bf16, fp32
    exact = false                   # computed in float64
    seed = 7                        # rounded stochastically; absent: to the nearest

    [base]
    path = "base.safetensors"
    [base.sha256]                   # by file; a folder has several
    "base.safetensors" = "..."

    [[adapter]]                     # applied in this order
    path = "style.safetensors"
    sha256 = "..."
    weight = 0.8
    [adapter.weights]               # components, blocks, patterns
    te = 0.5
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from modelhub.errors import SettingsError
from modelhub.merge.base import AdapterUse, Recipe, RecipeAdapter
from modelhub.merge.lineage import said
from modelhub.merge.toml import (
    ENDING,
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

RECIPE_SCHEMA = "modelhub.recipe/1"
RECIPE_KEY = "modelhub.merge"
"""Metadata key; those of the merges that the base, or what was blended into it, came from have numbers behind it."""


def recipe_path(target: str) -> str:
    """Where the recipe of the file or folder *target* lies."""
    return f"{target.rstrip(os.sep)}{ENDING}"


def lies_beside(recipe: str | None, target: str) -> bool:
    """Whether the file *recipe* lies where that of the file or folder *target* does."""
    try:
        return recipe is not None and os.path.samefile(recipe, recipe_path(target))
    except OSError:
        return False


def written_recipe(recipe: Recipe, folder: str | None = None) -> str:
    """*recipe* as text; its paths relative to *folder*, without one the files' names alone."""
    return "\n".join(_lines(recipe, folder)) + "\n"


def _lines(recipe: Recipe, folder: str | None) -> Iterator[str]:
    yield from head_lines(RECIPE_SCHEMA, recipe.precision)
    yield from ("", "[base]", f"path = {quoted(path_in(recipe.base, folder))}")
    if recipe.digests:
        yield "[base.sha256]"
        yield from (f"{quoted(name)} = {quoted(digest)}" for name, digest in recipe.digests.items())
    for each in recipe.adapters:
        yield from ("", "[[adapter]]", f"path = {quoted(path_in(each.use.path, folder))}")
        if each.sha256 is not None:
            yield f"sha256 = {quoted(each.sha256)}"
        yield from weight_lines(each.use.weights, "adapter")


def read_recipe(path: str) -> Recipe:
    """The recipe in the file *path*, its paths made those of this process.

    Raises :class:`NotFound`, :class:`SourceError`, :class:`LimitExceeded` for one of more than 4 MiB, or
    :class:`SettingsError` for what is no recipe.
    """
    return parsed_recipe(read_text(path), os.path.dirname(path), path, file=path)


def parsed_recipe(data: bytes, folder: str, name: str, *, file: str | None = None) -> Recipe:
    """The recipe in *data*, whose paths are relative to *folder*; *name* is what errors call it, *file* where it was
    read from."""
    table = recipe_table(data, name, RECIPE_SCHEMA, frozenset({"base", "adapter"}))
    base: Any = table.get("base")
    check_keys(base, {"path": "text", "sha256": "table"}, name, "the base")
    precision = precision_of(table, name)
    adapters = tuple(_adapter(each, folder, name) for each in tables_of(table, "adapter", name))
    digests = {key: str(value) for key, value in base.get("sha256", {}).items()}
    output = None if file is None else output_of(table, file)
    return Recipe(os.path.join(folder, base["path"]), adapters, precision, digests, file, output)


def _adapter(table: Any, folder: str, name: str) -> RecipeAdapter:
    check_keys(table, {"path": "text", "sha256": "text", **WEIGHT_KEYS}, name, "an adapter")
    use = AdapterUse(os.path.join(folder, table["path"]), weights_of(table, name))
    return RecipeAdapter(use, table.get("sha256"))


def merged_digests(metadata: Mapping[str, str]) -> frozenset[str]:
    """The SHA-256 of every adapter that a file with *metadata* was merged with before."""
    found: set[str] = set()
    for text in said(metadata, RECIPE_KEY):
        try:
            recipe = parsed_recipe(text.encode(errors="replace"), "", RECIPE_KEY)
        except SettingsError:
            continue
        found |= {each.sha256 for each in recipe.adapters if each.sha256 is not None}
    return frozenset(found)
