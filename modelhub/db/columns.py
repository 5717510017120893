"""What is written down of a file that was read, as columns: worked out by the processes that read, for the one that
writes has enough to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from modelhub.db.claims import claims_of
from modelhub.db.full_text import about_of, words_of
from modelhub.db.places import Reading, Seen
from modelhub.db.text import int64, name_for, plain, plain_fingerprint, storable
from modelhub.db.triggers import listed, trigger_words

_COMPACT = json.JSONEncoder(separators=(",", ":"))
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

AS_JSON = ("components", "adapter", "evidence", "candidates")
"""Columns of an identification that are kept as JSON."""


def identification_columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an identification that says *facts*, those of :data:`AS_JSON` as text."""
    said = {
        **plain(facts),
        "tensor_count": int64(facts["tensor_count"]),
        "parameter_count": int64(facts["parameter_count"]),
    }
    texts = {name: _COMPACT.encode(said[name]) for name in AS_JSON}
    return {**said, **texts, "fingerprint": plain_fingerprint(said)}


def reading_of(
    seen: Seen,
    *,
    container: str,
    prints: tuple[str, str],
    problem: str | None,
    identity: Mapping[str, Any],
    metadata: Mapping[str, str],
    layout: tuple[str, bytes | None],
    observation: str,
    version: str,
) -> Reading:
    """The reading of *seen*, whose *identity* is what :func:`identification_columns` gave."""
    text = _CANONICAL.encode(metadata)
    if "\\u" in text:  # a control character, or one beyond ASCII
        text = _CANONICAL.encode({storable(name): storable(value) for name, value in metadata.items()})
    triggers = trigger_words(metadata)
    header, sample = prints
    return Reading(
        container=container,
        header=header,
        sample=sample,
        problem=problem,
        identity=identity,
        metadata=text,
        metadata_sha256=hashlib.sha256(text.encode()).hexdigest(),  # its fingerprint
        claims=claims_of(metadata),
        about=about_of([name_for(seen.path, seen.is_folder), seen.path], triggers),
        words=words_of(metadata),
        triggers=_COMPACT.encode([storable(word) for word in listed(triggers)]),
        layout_digest=layout[0],
        layout=layout[1],
        observation=observation,
        version=version,
    )
