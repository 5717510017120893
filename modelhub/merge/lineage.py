"""What an output's metadata says of where it came from, before all of that is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping


def placeholder(number: int) -> str:
    """What stands in the place of the digest of file *number* until it is known: as long as one, and its own."""
    return hashlib.sha256(b"modelhub: the digest of a base, pending: %d" % number).hexdigest()


def with_older(metadata: Mapping[str, str], key: str, text: str) -> dict[str, str]:
    """*text* under *key*, and what *metadata* has there under the first free number behind it."""
    older = [metadata[key]] if key in metadata else []
    rest = {name: value for name, value in metadata.items() if name != key}
    return {**numbered(rest, key, older), key: text}


def numbered(metadata: Mapping[str, str], key: str, texts: Iterable[str]) -> dict[str, str]:
    """*texts* under free numbers behind *key*, but those that *metadata* has there, or under *key*, already."""
    known = set(said(metadata, key))
    made: dict[str, str] = {}
    number = 1
    for text in texts:
        while f"{key}.{number}" in metadata:
            number += 1
        if text not in known:
            made[f"{key}.{number}"] = text
            known.add(text)
            number += 1
    return made


def said(metadata: Mapping[str, str], key: str) -> Iterator[str]:
    """What *metadata* has under *key*, and under numbers behind it."""
    return (text for name, text in metadata.items() if name == key or name.startswith(f"{key}."))
