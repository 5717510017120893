"""Making several records one artifact, and parting them again."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from modelhub.db import artifacts
from modelhub.db.details import select_entry
from modelhub.db.engine import Store
from modelhub.db.entries import Entry
from modelhub.db.recording import index_record
from modelhub.db.schema import record
from modelhub.db.search import entries
from modelhub.errors import CatalogError


class Artifacts:
    """The catalog's artifacts. Every method is one transaction; see :mod:`modelhub.db.artifacts`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def group(self, selectors: Sequence[str]) -> list[Entry]:
        """Let the records that *selectors* fit, and all that are one artifact with them, be one artifact.

        What the user wrote on any of them is kept, and holds for all. Returns the records of the artifact. Raises
        :class:`CatalogError` for fewer than two records.
        """

        def work(connection: Connection) -> list[Entry]:
            ids = _selected(connection, selectors)
            if len(ids) < 2:
                raise CatalogError("one artifact is made of two records or more")
            join_records(connection, *ids)
            ours = artifacts.members(connection, artifacts.holder_of(connection, ids[0]))
            return entries(connection, record.c.id.in_(ours))

        return self._store.write(work)

    def part(self, selectors: Sequence[str]) -> list[Entry]:
        """Let each of the records that *selectors* fit be an artifact of its own again, with all that the user wrote on
        the one that it was part of. Returns those records."""

        def work(connection: Connection) -> list[Entry]:
            ids = _selected(connection, selectors)
            for each in ids:
                artifacts.part(connection, each)
                index_artifact(connection, each)
            return entries(connection, record.c.id.in_(ids))

        return self._store.write(work)


def _selected(connection: Connection, selectors: Sequence[str]) -> list[int]:
    return list(dict.fromkeys(select_entry(connection, selector).id for selector in selectors))


def join_records(connection: Connection, first: int, *others: int) -> None:
    """Let the records be one artifact: that of *first*."""
    changed = [artifacts.join(connection, first, each) for each in others]
    if any(changed):
        index_artifact(connection, first)


def join_contents(connection: Connection, *digests: str) -> None:
    """:func:`join_records` for those of the records of these bytes (SHA-256) that are there."""
    found = [each for sha256 in digests if (each := artifacts.record_of(connection, sha256)) is not None]
    if len(found) > 1:
        join_records(connection, *found)


def index_artifact(connection: Connection, record_id: int) -> None:
    """Make what is said of the record's artifact searchable, in place of what was said before."""
    for content_id in artifacts.contents_of(connection, record_id):
        index_record(connection, content_id)
