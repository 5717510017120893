"""What an output's metadata says of where it came from, before all of that is known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def placeholder(number: int) -> str:
    """What stands in the place of the digest of file *number* until it is known: as long as one, and its own."""
    return hashlib.sha256(b"modelhub: the digest of a base, pending: %d" % number).hexdigest()


def with_older(metadata: Mapping[str, str], key: str, text: str) -> dict[str, str]:
    """*text* under *key*, and what *metadata* has there under the first free number behind it."""
    number = 1
    while f"{key}.{number}" in metadata:
        number += 1
    older = {f"{key}.{number}": metadata[key]} if key in metadata else {}
    return {**older, key: text}
