"""Identification again, by new rules and without the files: from what the catalog has kept of their headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from modelhub import __version__
from modelhub.db import Catalog
from modelhub.identify import Identity, Observation, identify_observation, restored, rules_version
from modelhub.identify.side_file import told_beside
from modelhub.tensor_table import elements_of

_BATCH = 200


class Reidentified(NamedTuple):
    """How many files were identified again, and how many of them are told differently now; of ``unreadable`` ones
    what the catalog has kept makes no sense."""

    files: int
    changed: int
    unreadable: int = 0


def identification_version() -> str:
    """The version that identifications of this modelhub carry: its own and that of its rules."""
    return f"{__version__}+{rules_version()}"


def reidentify(catalog: Catalog) -> Reidentified:
    """Identify again, from what *catalog* has kept, every file that other rules identified last. Opens no file.

    What the user has set stays as it is. A run that is interrupted goes on where it was.
    """
    version = identification_version()
    files = changed = unreadable = 0
    batch: list[tuple[int, Identity, int | None, int | None]] = []
    for content_id, plain in catalog.identifications.out_of_date(version):
        found = _identified(plain) if plain is not None else None
        if found is None:
            unreadable += 1
            continue
        batch.append((content_id, *found))
        files += 1
        if len(batch) == _BATCH:
            changed += catalog.identifications.put(batch, version)
            batch = []
    return Reidentified(files, changed + (catalog.identifications.put(batch, version) if batch else 0), unreadable)


def reidentify_beside(catalog: Catalog, paths: Mapping[int, str]) -> int:
    """Identify those contents again, without reading them, beside whose files (their *paths*) a configuration says
    something else than it did; returns how many of them are told differently now."""
    changed = 0
    ids = sorted(paths)
    for start in range(0, len(ids), _BATCH):
        for content_id, plain in catalog.identifications.observations(ids[start : start + _BATCH]):
            told = told_beside(paths[content_id])
            if plain is None or plain.get("beside") == (list(told) if told else None):
                continue
            found = _identified({**plain, "beside": told})
            if found is not None:
                changed += catalog.identifications.put_beside(told, (content_id, *found), identification_version())
    return changed


def _identified(plain: Mapping[str, Any]) -> tuple[Identity, int | None, int | None] | None:
    try:
        observation = restored(plain)
        return identify_observation(observation), *_counts(observation)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):  # of an import, checked for its form
        return None


def _counts(observation: Observation) -> tuple[int | None, int | None]:
    dicts = [state_dict for state_dict, _ in observation.files.values()]
    if not any(dicts):
        return None, None
    return sum(map(len, dicts)), sum(elements_of(each.tensors) for each in dicts)
