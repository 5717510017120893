"""The digests that a file's metadata state of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_CLAIMS = {"sshs_model_hash": "autov3", "modelspec.hash_sha256": "autov3"}
"""Metadata keys that state a digest, and which one it is: kohya's and ModelSpec's are both of the data area, the former
of the file as the trainer first wrote it."""

OF_HEADERS = frozenset(_CLAIMS)
"""Who claims the digests that are claimed by no side file."""

_HEX = re.compile(r"[0-9a-f]{8,64}")


def claims_of(metadata: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Algorithm, value and key of each digest that *metadata* states."""
    found = []
    for key, algorithm in _CLAIMS.items():
        value = metadata.get(key, "").strip().lower().removeprefix("0x")
        if _HEX.fullmatch(value):
            found.append((algorithm, value, key))
    return found
