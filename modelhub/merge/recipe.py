"""Recipes: a merge as data, in TOML.

``OUT.recipe.toml`` lies beside each output and does the same merge again; its paths are relative to it. The same text
with the files' names alone is in the output's metadata under :data:`RECIPE_KEY`. ::

    schema = "modelhub.recipe/1"
    version = "0.1.0"               # of modelhub
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
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from modelhub import __version__
from modelhub.errors import NotFound, SettingsError, SourceError
from modelhub.merge.base import AdapterUse, Precision, Recipe, RecipeAdapter
from modelhub.merge.weights import named_weights, weights

RECIPE_SCHEMA = "modelhub.recipe/1"
RECIPE_KEY = "modelhub.merge"
"""Metadata key; those of the merges that the base came from have numbers behind it."""

_LARGEST = 4 << 20


def recipe_path(target: str) -> str:
    """Where the recipe of the file or folder *target* lies."""
    return f"{target.rstrip(os.sep)}.recipe.toml"


def written_recipe(recipe: Recipe, folder: str | None = None) -> str:
    """*recipe* as text; its paths relative to *folder*, without one the files' names alone."""

    def path(of: str) -> str:
        if folder is None:
            return os.path.basename(of.rstrip(os.sep))
        return os.path.relpath(of, folder).replace(os.sep, "/")

    return "\n".join(_lines(recipe, path)) + "\n"


def _lines(recipe: Recipe, path: Any) -> Iterator[str]:
    precision = recipe.precision
    yield f"schema = {_quoted(RECIPE_SCHEMA)}"
    yield f"version = {_quoted(__version__)}"
    yield f"dtype = {_quoted(precision.dtype)}"
    yield f"exact = {str(precision.exact).lower()}"
    if precision.seed is not None:
        yield f"seed = {precision.seed}"
    yield from ("", "[base]", f"path = {_quoted(path(recipe.base))}")
    if recipe.digests:
        yield "[base.sha256]"
        yield from (f"{_quoted(name)} = {_quoted(digest)}" for name, digest in recipe.digests.items())
    for each in recipe.adapters:
        yield from ("", "[[adapter]]", f"path = {_quoted(path(each.use.path))}")
        if each.sha256 is not None:
            yield f"sha256 = {_quoted(each.sha256)}"
        yield f"weight = {each.use.weights.overall!r}"
        named = named_weights(each.use.weights)
        if named:
            yield "[adapter.weights]"
            yield from (f"{_quoted(key)} = {value!r}" for key, value in named.items())


def _quoted(text: str) -> str:
    """*text* as a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def read_recipe(path: str) -> Recipe:
    """The recipe in the file *path*, its paths made those of this process.

    Raises :class:`NotFound`, :class:`SourceError`, or :class:`SettingsError` for what is no recipe.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    return parsed_recipe(data, os.path.dirname(path), path)


def parsed_recipe(data: bytes, folder: str, name: str) -> Recipe:
    """The recipe in *data*, whose paths are relative to *folder*; *name* is what errors call it."""
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{name}: not a recipe: {str(error).splitlines()[0]:.200}") from error
    if table.get("schema") != RECIPE_SCHEMA:
        raise SettingsError(f"{name}: not a recipe: its schema is not {RECIPE_SCHEMA}")
    unknown = table.keys() - {"schema", "version", "dtype", "exact", "seed", "base", "adapter"}
    if unknown:
        raise SettingsError(f"{name}: a recipe has no {min(unknown)!r:.60}")
    try:
        base = table["base"]
        adapters = tuple(_adapter(each, folder) for each in table.get("adapter", []))
        precision = Precision(table.get("dtype", "keep"), bool(table.get("exact", False)), table.get("seed"))
        if precision.dtype not in ("keep", "fp16", "bf16", "fp32"):
            raise SettingsError(f"{name}: {precision.dtype!r:.60} is no dtype of a merge")
        digests = {str(key): str(value) for key, value in base.get("sha256", {}).items()}
        return Recipe(os.path.join(folder, base["path"]), adapters, precision, digests)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SettingsError(f"{name}: not a recipe: {type(error).__name__} {error!s:.100}") from error


def _adapter(table: Mapping[str, Any], folder: str) -> RecipeAdapter:
    named = {str(key): float(value) for key, value in table.get("weights", {}).items()}
    row = [float(value) for value in table.get("blocks", [])]
    given = weights(float(table.get("weight", 1.0)), named, row)
    sha256 = table.get("sha256")
    use = AdapterUse(os.path.join(folder, cast("str", table["path"])), given)
    return RecipeAdapter(use, None if sha256 is None else str(sha256))


def merged_digests(metadata: Mapping[str, str]) -> frozenset[str]:
    """The SHA-256 of every adapter that a file with *metadata* was merged with before."""
    found: set[str] = set()
    for key, text in metadata.items():
        if key == RECIPE_KEY or key.startswith(f"{RECIPE_KEY}."):
            try:
                recipe = parsed_recipe(text.encode(errors="replace"), "", key)
            except SettingsError:
                continue
            found |= {each.sha256 for each in recipe.adapters if each.sha256 is not None}
    return frozenset(found)
