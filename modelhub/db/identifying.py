"""Saying again which models the bytes are, from what was kept of their headers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select, update

from modelhub.db.engine import Store
from modelhub.db.facts import FACTS, settle
from modelhub.db.layouts import joined, part, put_layout
from modelhub.db.recording import put_identity
from modelhub.db.schema import header, identification, layout, record

if TYPE_CHECKING:
    from modelhub.identify.base import Identity


_AT_ONCE = 200  # observations held in memory: those of large checkpoints take a megabyte

Identified = tuple[int, "Identity", int | None, int | None]
"""A content, who it is, and its numbers of tensors and parameters."""


class Identifications:
    """The catalog's identifications. Every method is one transaction, :meth:`out_of_date` several."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def out_of_date(self, version: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """What identification goes by, of every content that another version than *version* identified last.

        Content ids and values of :func:`modelhub.identify.stored`, a few at a time; ``None`` for what cannot be read.
        """
        ids = self._store.read(lambda connection: _out_of_date(connection, version))
        for start in range(0, len(ids), _AT_ONCE):
            yield from self.observations(ids[start : start + _AT_ONCE])

    def observations(self, content_ids: Sequence[int]) -> list[tuple[int, dict[str, Any] | None]]:
        """What identification goes by, of these contents as far as it was kept; see :meth:`out_of_date`."""
        return self._store.read(lambda connection: _observations(connection, content_ids))

    def put(self, found: Sequence[Identified], version: str) -> int:
        """Write down who *version* says that contents are; returns how many of them are now told differently."""
        return self._store.write(lambda connection: _put_identities(connection, found, version))

    def put_beside(self, told: Sequence[str] | None, found: Identified, version: str) -> bool:
        """Write down that a configuration beside a content's file says *told*, and who it is by that; whether it is
        told differently now."""

        def work(connection: Connection) -> bool:
            _put_beside(connection, found[0], told)
            return _put_identities(connection, [found], version) > 0

        return self._store.write(work)


def _out_of_date(connection: Connection, version: str) -> list[int]:
    """The contents whose headers were kept and that another version than *version* identified last."""
    newest = (
        select(identification.c.content_id, func.max(identification.c.id).label("id"))
        .group_by(identification.c.content_id)
        .subquery()
    )
    return list(
        connection.scalars(
            select(header.c.content_id)
            .join(newest, newest.c.content_id == header.c.content_id)
            .join(identification, identification.c.id == newest.c.id)
            .where(identification.c.version != version, header.c.layout_id.is_not(None))
            .order_by(header.c.content_id)
        )
    )


def _observations(connection: Connection, content_ids: Sequence[int]) -> list[tuple[int, dict[str, Any] | None]]:
    """What identification goes by, of each of the contents; ``None`` where what was kept cannot be read."""
    rows = connection.execute(
        select(header.c.content_id, layout.c.packed, header.c.observation, header.c.metadata)
        .join(layout, header.c.layout_id == layout.c.id)
        .where(header.c.content_id.in_(content_ids))
        .order_by(header.c.content_id)
    )
    return [
        (row.content_id, _joined(row.packed, row.observation, row._mapping[header.c.metadata]))
        for row in rows
        if row.observation is not None
    ]


def _joined(packed: bytes, rest: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    try:
        return joined(packed, rest, metadata)
    except (ValueError, LookupError, TypeError, AttributeError):  # an import is checked for its form alone
        return None


def put_observation(connection: Connection, content_id: int, observation: Mapping[str, Any] | None) -> bool:
    """Keep *observation* of the content, whose header has been written down, unless it is ``None`` or one is kept.

    Answers whether what is searched has changed, which it never does.
    """
    if observation is None or connection.scalar(select(header.c.layout_id).where(header.c.content_id == content_id)):
        return False
    parted = part(observation)
    layout_id = put_layout(connection, parted.digest, parted.packed)
    values = {"layout_id": layout_id, "observation": parted.rest}
    connection.execute(update(header).where(header.c.content_id == content_id).values(values))
    return False


def _put_beside(connection: Connection, content_id: int, told: Sequence[str] | None) -> None:
    """Let *told* be what a configuration beside the content's file says, in the observation that is kept of it."""
    kept = connection.scalar(select(header.c.observation).where(header.c.content_id == content_id))
    observation = json.dumps({**json.loads(kept or "{}"), "beside": told}, separators=(",", ":"))
    connection.execute(update(header).where(header.c.content_id == content_id).values(observation=observation))


def _put_identities(connection: Connection, found: Sequence[Identified], version: str) -> int:
    """Append each identity by *version*; returns how many records show something else now."""
    changed = 0
    for content_id, identity, tensors, parameters in found:
        before = _shown(connection, content_id)
        put_identity(
            connection, content_id, identity, tensor_count=tensors, parameter_count=parameters, version=version
        )
        settle(connection, content_id)
        changed += before != _shown(connection, content_id)
    return changed


def _shown(connection: Connection, content_id: int) -> tuple[str | None, ...]:
    columns = [record.c[name] for name in FACTS]
    row = connection.execute(select(*columns).where(record.c.content_id == content_id)).one_or_none()
    return tuple(row) if row is not None else ()
