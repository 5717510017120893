"""Values out of JSON that anybody may have written: of the type that was asked for, of bounded length, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from html import unescape
from typing import Any

from modelhub.sidefiles.base import digest_pair

LONGEST = 255
"""Characters of a name, a tag, an address."""
LONGEST_PHRASE = 1000
LONGEST_TEXT = 100_000
"""Characters of a description or of notes: Civitai's longest are a few tens of thousands."""
MOST = 200
"""Trigger phrases, and tags."""

JSON = Mapping[str, Any]
NOTHING: JSON = {}


def part(data: object, *keys: str) -> JSON:
    """The object at *keys*, one within the other; an empty one where there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else NOTHING


def text(data: JSON, *keys: str, longest: int = LONGEST) -> str | None:
    """The first of *keys* under which there is text with something in it, without white space around it."""
    for key in keys:
        value = data.get(key)
        if isinstance(value, str) and (stripped := value[: longest * 2].strip()[:longest].strip()):
            return stripped
    return None


def long_text(data: JSON, *keys: str) -> str | None:
    """:func:`text` of several lines."""
    return text(data, *keys, longest=LONGEST_TEXT)


def number(data: JSON, key: str) -> float | None:
    """The number under *key*, in figures or as text; ``None`` for one that is not finite."""
    value = data.get(key)
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e18 and math.isfinite(value) else None


def whole(data: JSON, *keys: str) -> int | None:
    """The positive whole number, such as an id, under the first of *keys* that has one."""
    for key in keys:
        value = number(data, key)
        if value is not None and value == int(value) and 0 < value < 2**53:
            return int(value)
    return None


def flag(data: JSON, key: str) -> bool | None:
    """The truth value under *key*; ``None`` for anything else."""
    value = data.get(key)
    return value if isinstance(value, bool) else None


def phrases(values: object, key: str = "name", longest: int = LONGEST_PHRASE) -> tuple[str, ...]:
    """The different texts of a list, in order; of objects in it what stands under *key*."""
    return distinct(_texts(values, key), longest)


def _texts(values: object, key: str) -> Iterator[str]:
    for value in values[: MOST * 4] if isinstance(values, list) else ():
        named = value.get(key) if isinstance(value, dict) else value
        if isinstance(named, str):
            yield named


def tags(values: object) -> tuple[str, ...]:
    """The different tags of a list, or of text with commas between them."""
    if isinstance(values, str):
        values = values[:LONGEST_TEXT].split(",")
    return phrases(values, longest=LONGEST)


def distinct(values: Iterable[str], longest: int = LONGEST_PHRASE) -> tuple[str, ...]:
    """The different ones of *values*, without white space and commas at their ends, no more than :data:`MOST`."""
    found: dict[str, None] = {}
    for value in values:
        phrase = value[: longest * 2].strip().strip(",").strip()[:longest]
        if phrase:
            found[phrase] = None
        if len(found) == MOST:
            break
    return tuple(found)


def digests(said: JSON) -> tuple[tuple[str, str], ...]:
    """The digests of an object that has their values under their names."""
    pairs = (digest_pair(name, value) for name, value in said.items() if isinstance(name, str))
    return tuple(dict(pair for pair in pairs if pair is not None).items())


_BLOCK = re.compile(r"</?(?:p|br|div|li|ul|ol|h[1-6]|tr|hr|pre)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")


def without_markup(said: str | None) -> str | None:
    """*said* without its HTML, as Civitai's descriptions have it; a line for each paragraph."""
    if said is None or ("<" not in said and "&" not in said):
        return said
    lines = (" ".join(line.split()) for line in unescape(_TAG.sub("", _BLOCK.sub("\n", said))).split("\n"))
    return "\n".join(line for line in lines if line) or None
