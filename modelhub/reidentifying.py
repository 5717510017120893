"""Identification again, by new rules and without the files: from what the catalog has kept of their headers."""

from __future__ import annotations

from typing import NamedTuple

from modelhub import __version__
from modelhub.db import Catalog
from modelhub.identify import Identity, Observation, identify_observation, restored, rules_version

_BATCH = 200


class Reidentified(NamedTuple):
    """How many files were identified again, and how many of them are told differently now."""

    files: int
    changed: int


def identification_version() -> str:
    """The version that identifications of this modelhub carry: its own and that of its rules."""
    return f"{__version__}+{rules_version()}"


def reidentify(catalog: Catalog) -> Reidentified:
    """Identify again, from what *catalog* has kept, every file that other rules identified last. Opens no file.

    What the user has set stays as it is. A run that is interrupted goes on where it was.
    """
    version = identification_version()
    files = changed = 0
    batch: list[tuple[int, Identity, int | None, int | None]] = []
    for content_id, plain in catalog.stored(version):
        observation = restored(plain)
        batch.append((content_id, identify_observation(observation), *_counts(observation)))
        files += 1
        if len(batch) == _BATCH:
            changed += catalog.identified(batch, version)
            batch = []
    return Reidentified(files, changed + (catalog.identified(batch, version) if batch else 0))


def _counts(observation: Observation) -> tuple[int | None, int | None]:
    dicts = [state_dict for state_dict, _ in observation.files.values()]
    if not any(dicts):
        return None, None
    return sum(map(len, dicts)), sum(each.parameter_count for each in dicts)
