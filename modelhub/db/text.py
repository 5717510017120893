"""From the text that files carry to text that every database can hold, and to text that can be searched.

No database takes a lone surrogate, and PostgreSQL no NUL; both turn up in file names and in headers made to break
their readers. They are stored as the six characters ``\\udc80``. Paths must come back as they were, for files are
opened by them, so in a path a backslash that would read as such an escape is escaped as well.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from modelhub.source.layouts import title_of

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UNSTORABLE_IN_PATH = re.compile("[\x00\ud800-\udfff]|\\\\(?=u[0-9a-f]{4})")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_INT64 = range(-(2**63), 2**63)

NORMALISED_WORD = 256
"""Words longer than this (in characters) are folded without Unicode normalisation, whose cost in CPython grows with the
square of a run of combining marks."""


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def storable(text: str) -> str:
    """*text* with NULs and lone surrogates spelt out; everything else as it is."""
    return text if text.isprintable() else _UNSTORABLE.sub(_escape, text)


def stored_path(path: str) -> str:
    """*path* as it is stored: :func:`storable`, and reversible by :func:`path_of`."""
    return _UNSTORABLE_IN_PATH.sub(_escape, path)


def path_of(stored: str) -> str:
    """The path that :func:`stored_path` made *stored* of."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), stored) if "\\u" in stored else stored


def path_key(path: str) -> str:
    """SHA-256 of *path*, in hex: what a live path is found by and unique by, whatever its length and characters."""
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()


def name_key(name: str) -> str:
    """What a name is found by and unique by where case and spaces make no difference."""
    return path_key(" ".join(folded(word) for word in name.split()))


def name_for(path: str, is_folder: bool) -> str:
    """What a record is called when nobody said: the file's name without its extension, or the folder's title."""
    return title_of(path) if is_folder else os.path.splitext(os.path.basename(path))[0]


def int64(number: int | None) -> int | None:
    """*number* where a database's 64-bit column can hold it, else ``None``: a header may claim any number."""
    return number if number is not None and number in _INT64 else None


def plain(value: object) -> Any:
    """*value* as JSON has it: dataclasses and mappings as dicts with text keys, sequences and sets as lists, numbers
    that are not finite as text, text :func:`storable`."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return storable(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict() | Mapping():  # the former is told at a glance
            return {storable(str(key)): plain(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=str)
        case _ if is_dataclass(value):
            return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        case _:
            return storable(str(value))


def fingerprint(value: object) -> str:
    """SHA-256 of *value*'s canonical JSON, in hex: equal for equal facts, whatever the order of their keys."""
    return plain_fingerprint(plain(value))


def plain_fingerprint(value: object) -> str:
    """:func:`fingerprint` of what :func:`plain` has given."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def folded(word: str) -> str:
    """*word* as it is compared: without case, and in one of the several ways that Unicode can spell it."""
    if word.isascii():
        return storable(word.lower())
    if len(word) > NORMALISED_WORD:
        return _unnormalised(word)
    return storable(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold()))


def _unnormalised(word: str) -> str:
    return storable(word.casefold())


def sought(word: str) -> set[str]:
    """How *word* stands in folded text: as :func:`folded` has it, or as it is within a word too long to normalise."""
    return {folded(word), _unnormalised(word)}


def distinct_words(texts: Iterable[str], limit: int) -> str:
    """The different folded words of *texts*, one per line, of their first *limit* characters together.

    A word sought has no white space in it, so that it lies within one word of the text or nowhere: searching these
    lines finds what searching the texts would, in a fraction of their length.
    """
    texts = list(texts)
    joined = "\n".join(texts)
    if joined.isascii() and "\0" not in joined and len(joined) <= limit:  # as most are: all of them at once
        return "\n".join(dict.fromkeys(joined.lower().split()))
    words: dict[str, None] = {}
    for text in texts:
        if limit <= 0:
            break
        part = text[:limit]
        limit -= len(part)
        words.update(dict.fromkeys(folded(part).split() if part.isascii() else map(folded, part.split())))
    return "\n".join(words)
