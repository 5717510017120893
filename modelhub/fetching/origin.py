"""The note beside a model of where it was fetched from: ``NAME.origin.json``."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping

from modelhub import __version__
from modelhub.convert.target import write_file
from modelhub.errors import SourceError, WouldOverwrite
from modelhub.fetching.plan import Unit
from modelhub.source import open_local, shown_address

_SCHEMA = "modelhub.origin/1"
_LARGEST = 64 << 20


def check_note(target: str) -> None:
    """Raise :class:`WouldOverwrite` where something else than a note of ours has the name of *target*'s."""
    path = _path(target)
    if os.path.lexists(path) and not _is_ours(path):
        raise WouldOverwrite(f"{path}: exists already, and is no note of a fetch", hint="move it away")


def write_note(target: str, unit: Unit, claims: Mapping[str, object], *, salvaged: bool) -> None:
    """Write beside *target* where *unit* comes from, as what the source says of it on this day; replaces such a note.

    Raises :class:`WouldOverwrite` as :func:`check_note` does.
    """
    origin = {
        "schema": _SCHEMA,
        "address": shown_address(unit.address),
        "fetched": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "salvaged": salvaged,
        "files": [file.as_dict() for file in unit.files],
        "claims": claims,
    }
    data = json.dumps(origin, indent=2, default=str).encode() + b"\n"
    check_note(target)
    path = _path(target)
    write_file(path, data, force=os.path.lexists(path))


def _path(target: str) -> str:
    return f"{target}.origin.json"


def _is_ours(path: str) -> bool:
    if os.path.islink(path):
        return False
    try:
        with open_local(path) as source:
            note = json.loads(source.read_at(0, source.size)) if source.size <= _LARGEST else None
    except (SourceError, ValueError, RecursionError):
        return False
    return isinstance(note, dict) and note.get("schema") == _SCHEMA
