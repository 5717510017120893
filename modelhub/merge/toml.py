"""What recipes of merges and of blends have in common, written and read as TOML."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any, Literal

from modelhub import __version__
from modelhub.errors import LimitExceeded, NotFound, SettingsError, SourceError
from modelhub.merge.base import Precision, Weights
from modelhub.merge.weights import COMPONENTS, named_weights, number, weights

ENDING = ".recipe.toml"
"""What the name of the recipe beside an output has behind the output's own."""

HEAD = frozenset({"schema", "version", "output", "dtype", "exact", "seed"})
"""The keys that every recipe may have."""

Kind = Literal["text", "number", "table", "list"]
"""What the value of a key in a recipe is."""

WEIGHT_KEYS: Mapping[str, Kind] = {"weight": "number", "weights": "table", "blocks": "list"}
"""The keys of a table of weights."""

_TYPES: Mapping[Kind, tuple[type, ...]] = {"text": (str,), "number": (int, float), "table": (dict,), "list": (list,)}

_LARGEST = 4 << 20


def head_lines(schema: str, precision: Precision) -> Iterator[str]:
    """The first lines of a recipe of *schema*."""
    yield f"schema = {quoted(schema)}"
    yield f"version = {quoted(__version__)}"
    yield f"dtype = {quoted(precision.dtype)}"
    yield f"exact = {str(precision.exact).lower()}"
    if precision.seed is not None:
        yield f"seed = {precision.seed}"


def weight_lines(given: Weights, table: str, words: Mapping[str, str] = COMPONENTS) -> Iterator[str]:
    """The lines of *given* in a table of which *table* is the name: its number, and a table of what is named."""
    yield f"weight = {given.overall!r}"
    named = named_weights(given, words)
    if named:
        yield f"[{table}.weights]"
        yield from (f"{quoted(key)} = {value!r}" for key, value in named.items())


def path_in(path: str, folder: str | None) -> str:
    """*path* as a recipe in *folder* says it: relative to it, without a folder the file's name alone."""
    if folder is None:
        return os.path.basename(path.rstrip(os.sep))
    return os.path.relpath(path, folder).replace(os.sep, "/")


def quoted(text: str) -> str:
    """*text* as a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def read_text(path: str) -> bytes:
    """The bytes of the recipe *path*. Raises :class:`NotFound`, :class:`SourceError` or :class:`LimitExceeded`."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise LimitExceeded(f"{path}: longer than a recipe is read: {_LARGEST:,} bytes")
    return data


def output_of(table: Mapping[str, Any], path: str) -> str | None:
    """What the recipe *path*, of which *table* is the text, says is written: by its ``output``, or by its own name,
    ``OUT.recipe.toml``. ``None`` where it does not say.

    It lies beside the recipe or in a folder there: a recipe that somebody else wrote does not choose any other place.
    Raises :class:`SettingsError`.
    """
    folder, name = os.path.split(path)
    output = table.get("output", name.removesuffix(ENDING) if name.endswith(ENDING) else None)
    if output is None:
        return None
    parts = PureWindowsPath(output) if isinstance(output, str) else PureWindowsPath()
    if not parts.name or parts.drive or parts.root or ".." in parts.parts:
        hint = "-o names any other place"
        raise SettingsError(f"{path}: output is the name of a file or folder beside the recipe", hint=hint)
    return os.path.join(folder, output)


def recipe_table(data: bytes, name: str, schema: str, keys: frozenset[str]) -> dict[str, Any]:
    """The recipe of *schema* in *data*, with no other keys than *keys* and :data:`HEAD`.

    Raises :class:`SettingsError`, which calls it *name*.
    """
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{name}: not a recipe: {str(error).splitlines()[0]:.200}") from error
    if table.get("schema") != schema:
        raise SettingsError(f"{name}: not a recipe: its schema is not {schema}")
    unknown = table.keys() - HEAD - keys
    if unknown:
        raise SettingsError(f"{name}: a recipe has no {min(unknown)!r:.60}")
    return table


def check_keys(table: object, keys: Mapping[str, Kind], name: str, what: str) -> None:
    """Raise :class:`SettingsError` where what the recipe *name* says of *what* is no table of these *keys*, or lacks a
    path that is one of them."""
    if not isinstance(table, dict):
        raise SettingsError(f"{name}: {what} in a recipe is a table")
    unknown = table.keys() - keys.keys()
    if unknown:
        raise SettingsError(f"{name}: {what} in a recipe has no {min(unknown)!r:.60}")
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, _TYPES[keys[key]]):
            raise SettingsError(f"{name}: {key!r} of {what} in a recipe is a {keys[key]}")
    if "path" in keys and not table.get("path"):
        raise SettingsError(f"{name}: {what} in a recipe has a path")


def tables_of(table: Mapping[str, Any], key: str, name: str) -> list[Any]:
    """What the recipe *name*, of which *table* is the text, has under *key*, of which there is one or more."""
    found = table.get(key)
    if not isinstance(found, list) or not found:
        raise SettingsError(f"{name}: a recipe has one or more [[{key}]]")
    return found


def precision_of(table: Mapping[str, Any], name: str) -> Precision:
    """The precision that the recipe *name* says. Raises :class:`SettingsError`."""
    exact, seed = table.get("exact", False), table.get("seed")
    if not isinstance(exact, bool) or not (seed is None or type(seed) is int):
        raise SettingsError(f"{name}: exact is true or false, and seed an integer")
    precision = Precision(table.get("dtype", "keep"), exact, seed)
    if precision.dtype not in ("keep", "fp16", "bf16", "fp32"):
        raise SettingsError(f"{name}: {precision.dtype!r:.60} is no dtype of a merge")
    return precision


def weights_of(table: Mapping[str, Any], name: str, words: Mapping[str, str] = COMPONENTS) -> Weights:
    """The weights in *table*, in the recipe *name*. Raises :class:`SettingsError`."""
    try:
        named = {key: number(value) for key, value in table.get("weights", {}).items()}
        row = [number(value) for value in table.get("blocks", [])]
        return weights(number(table.get("weight", 1.0)), named, row, words)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
