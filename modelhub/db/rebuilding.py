"""Making anew what the rest of a catalog says all of: what lists show, and what is searched."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select

from modelhub.db import full_text
from modelhub.db.clock import now
from modelhub.db.facts import settle
from modelhub.db.recording import metadata_of
from modelhub.db.schema import content, location, record, search_text
from modelhub.db.text import name_for

_FULL_TEXT = ("search_about", "search_words")


def rebuild(connection: Connection) -> int:
    """Make every derived row and index anew, and a record for bytes that have none; returns the number of contents."""
    if connection.dialect.name == "sqlite":
        for table in _FULL_TEXT:  # rows cannot be taken from an index that does not fit them
            connection.exec_driver_sql(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")  # noqa: S608 (names of ours)
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql("REINDEX TABLE search_text")
    connection.execute(delete(search_text))
    lone = select(content.c.id, content.c.added).where(content.c.id.not_in(select(record.c.content_id)))
    for content_id, added in connection.execute(lone).all():
        where = select(location.c.path, location.c.is_folder).where(location.c.content_id == content_id)
        found = connection.execute(where.order_by(location.c.live_key.is_(None), location.c.id.desc())).first()
        name = name_for(found.path, found.is_folder) if found is not None else f"content {content_id}"
        connection.execute(insert(record).values(content_id=content_id, name=name, notes="", added=added or now()))
    ids = list(connection.scalars(select(content.c.id).order_by(content.c.id)))
    derive(connection, ids)
    return len(ids)


def derive(connection: Connection, content_ids: Iterable[int]) -> None:
    """Make what is derived of these contents, for which no text to search is kept yet."""
    for content_id in content_ids:
        said = metadata_of(connection, content_id)
        full_text.put_words(connection, content_id, said)
        full_text.put_about(connection, [(content_id, said)])
        settle(connection, content_id)
