"""Rows of the catalog as plain JSON, and back: what an export is made of.

Every table of the schema is carried but those that others are made of. What comes back is not trusted: each value is
checked to be what its column holds, so that no row comes in that the rest of the program could not have written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Row, Table, TypeDecorator

from modelhub.db.column_types import Json
from modelhub.db.schema import derivation, derivation_input, header, layout, location, metadata, search_text
from modelhub.db.search import VERDICTS
from modelhub.db.text import name_key, path_key
from modelhub.errors import CatalogError
from modelhub.sidefiles import Claims

DERIVED = (search_text,)
"""Tables that the others say all of."""

CARRIED = tuple(table for table in metadata.sorted_tables if table not in DERIVED)
"""The tables of an export, each after those that it refers to."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"-?[0-9]{1,39}")
_DIGESTS = {
    ("content", "sha256"),
    (layout.name, "digest"),
    (derivation.name, "output"),
    (derivation_input.name, "sha256"),
}
_NUMBERS = {"mtime_ns", "device", "inode"}
_STATES = {"live", "offline", "quarantined", "missing", "moved", "replaced", "removed"}
_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "metadata": lambda value: isinstance(value, dict) and _all(str, value.values()),
    "triggers": lambda value: isinstance(value, list) and _all(str, value),
    "claims": lambda value: isinstance(value, dict) and all(_is_claim(*each) for each in value.items()),
    "files": lambda value: isinstance(value, list) and _all(dict, value),
    "extra": lambda value: isinstance(value, dict),
    "asked": lambda value: isinstance(value, dict),
    "checks": lambda value: isinstance(value, list) and _all(dict, value),
    "facts": lambda value: isinstance(value, dict),
    "params": lambda value: isinstance(value, dict),
    "adapter": lambda value: value is None or isinstance(value, dict),
    "skipped": lambda value: isinstance(value, list) and _all(dict, value),
    "components": lambda value: isinstance(value, list) and _all(str, value),
    "evidence": lambda value: isinstance(value, list) and _all(dict, value),
    "candidates": lambda value: isinstance(value, list) and _all(str, value),
}
_CLAIMED = {each.name for each in fields(Claims)}
_LARGEST_LAYOUT = 1 << 30
_IDS = 1 << 30
"""Half of the ids that a database gives: after what comes in there is room for more."""


def to_plain(table: Table, row: Row[Any]) -> dict[str, Any]:
    """*row* of *table* as JSON has it."""
    values = row._asdict()
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = base64.b64encode(value).decode()
    return {column.name: values[column.key] for column in table.columns}


def from_plain(table: Table, said: Mapping[str, Any]) -> dict[str, Any]:
    """The row of *table* that *said* states; raises :class:`CatalogError` for what no such row can be."""
    unknown = said.keys() - {column.name for column in table.columns}
    if unknown:
        raise CatalogError(f"{table.name} has no column {min(unknown)!r}")
    row = {column.name: _checked(column, said.get(column.name)) for column in table.columns}
    if row.get("live_key") is not None:
        row["live_key"] = path_key(row["path"])
    if "path_key" in row:
        row["path_key"] = path_key(row["path"])
    if "name_key" in row:
        row["name_key"] = name_key(row["name"])
    if table is location and ((row["live_key"] is None) == (row["state"] in ("live", "offline", "quarantined"))):
        raise CatalogError("location.state contradicts location.live_key")
    if table is layout:
        _check_layout(row)
    return row


def _checked(column: Column[Any], value: Any) -> Any:
    table = column.table.name
    if isinstance(column.type, Json):
        fits = column.name not in _SHAPES or _SHAPES[column.name](value)
    elif value is None:
        fits = bool(column.nullable)
    elif isinstance(column.type, Boolean):
        fits = isinstance(value, bool)
    elif isinstance(column.type, Integer):
        bits = 63 if isinstance(column.type, BigInteger) else 31
        fits = isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits
        if column.primary_key:
            fits = fits and 0 <= value < _IDS
        elif column.name == "rating":
            fits = fits and 0 <= value <= 5
    elif isinstance(column.type, LargeBinary):
        value = _bytes(value)
        fits = value is not None
    else:
        longest = getattr(column.type, "length", None) or getattr(getattr(column.type, "impl", None), "length", None)
        fits = isinstance(value, str) and (longest is None or len(value) <= longest) and _is_word(table, column, value)
    if not fits:
        raise CatalogError(f"{table}.{column.name} cannot be {str(value)[:60]!r}")
    return value


def _is_claim(name: str, value: Any) -> bool:
    """Whether *value* is what :class:`modelhub.sidefiles.Claims` keeps as *name*."""
    if name in ("triggers", "tags"):
        return isinstance(value, list) and _all(str, value)
    if name == "digests":
        return isinstance(value, dict) and _all(str, value.values())
    kinds: dict[str, type | tuple[type, ...]] = {
        "nsfw": bool,
        "favourite": bool,
        "weight": (int, float),
        "model_id": int,
        "version_id": int,
    }
    return name in _CLAIMED and isinstance(value, kinds.get(name, str))


def _all(kind: type, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_word(table: str, column: Column[Any], value: str) -> bool:
    if (table, column.name) in _DIGESTS:
        return _SHA256.fullmatch(value) is not None
    if column.name in _NUMBERS:
        return _NUMBER.fullmatch(value) is not None and (column.name != "device" or 0 <= int(value) < 2**64)
    if (table, column.name) == (header.name, "observation"):
        return _is_observation(value)
    if column.name == "verdict":
        return value in VERDICTS
    if (table, column.name) == (location.name, "state"):
        return value in _STATES
    return isinstance(column.type, TypeDecorator) or (value.isascii() and value.isprintable())


def _bytes(value: Any) -> bytes | None:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        return None


def _check_layout(row: Mapping[str, Any]) -> None:
    """Names of tensors are shared by their digest: false ones would be believed of files that have others."""
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(row["packed"], _LARGEST_LAYOUT)
    except zlib.error:
        text = b""
    if not unpacking.eof or hashlib.sha256(text).hexdigest() != row["digest"]:
        raise CatalogError("layout.packed is not what layout.digest says")
    tensors = _json(text)
    if not isinstance(tensors, dict) or not all(
        isinstance(each, list) and _all(list, each) for each in tensors.values()
    ):
        raise CatalogError("layout.packed is no list of tensors")


def _is_observation(text: str) -> bool:
    """Whether *text* has the form of what identification goes by; what it says is for identification to judge."""
    said = _json(text)
    files = said.get("files") if isinstance(said, dict) else None
    return isinstance(files, dict) and _all(dict, files.values())


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
