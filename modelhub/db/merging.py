"""Two contents that turn out to be the same bytes become one, and nothing that a user wrote on either is lost."""

from __future__ import annotations

from sqlalchemy import Connection, Table, delete, insert, select, update

from modelhub.db import artifacts, full_text
from modelhub.db.facts import overrides, put_overrides, settle
from modelhub.db.schema import (
    change,
    component,
    content,
    content_digest,
    download,
    header,
    identification,
    location,
    override,
    record,
    remote_claim,
    scan_report,
    search_text,
    side_file,
    smoke_run,
)


def merge(connection: Connection, gone: int, kept: int) -> None:
    """Let the content *kept* take over everything of *gone*, which is no more.

    Of two records, that of *kept* goes on: it takes the other's tags, notes under its own, and what it had not set.
    """
    for table in (location, scan_report, identification, change, side_file, download, remote_claim, smoke_run):
        connection.execute(update(table).where(table.c.content_id == gone).values(content_id=kept))
    connection.execute(update(smoke_run).where(smoke_run.c.base_id == gone).values(base_id=kept))
    _move_digests(connection, gone, kept)
    _move_components(connection, gone, kept)
    _move_row(connection, header, gone, kept)
    _move_row(connection, search_text, gone, kept)
    _merge_records(connection, gone, kept)
    parts = ("header_sha256", "sample_sha256", "container", "problem")
    rows = {each.id: each for each in connection.execute(select(content).where(content.c.id.in_((gone, kept))))}
    missing = {name: getattr(rows[gone], name) for name in parts if getattr(rows[kept], name) is None}
    connection.execute(delete(content).where(content.c.id == gone))
    if missing:
        connection.execute(update(content).where(content.c.id == kept).values(missing))
    settle(connection, kept)
    record_id = connection.scalar(select(record.c.id).where(record.c.content_id == kept))
    for content_id in [kept] if record_id is None else artifacts.contents_of(connection, record_id):
        said = connection.scalar(select(header.c.metadata).where(header.c.content_id == content_id))
        full_text.put_about(connection, [(content_id, dict(said or {}))])


def _move_digests(connection: Connection, gone: int, kept: int) -> None:
    key = ("algorithm", "origin", "source")
    rows = connection.execute(select(content_digest).where(content_digest.c.content_id.in_((gone, kept)))).all()
    has = {tuple(getattr(row, name) for name in key) for row in rows if row.content_id == kept}
    connection.execute(delete(content_digest).where(content_digest.c.content_id == gone))
    moved = [
        {**row._asdict(), "content_id": kept}
        for row in rows
        if row.content_id == gone and tuple(getattr(row, name) for name in key) not in has
    ]
    if moved:
        connection.execute(insert(content_digest), moved)


def _move_components(connection: Connection, gone: int, kept: int) -> None:
    """The components of *gone* become those of *kept*, if it has none."""
    if connection.scalar(select(component.c.content_id).where(component.c.content_id == kept).limit(1)) is None:
        connection.execute(update(component).where(component.c.content_id == gone).values(content_id=kept))
    else:
        connection.execute(delete(component).where(component.c.content_id == gone))


def _move_row(connection: Connection, table: Table, gone: int, kept: int) -> None:
    """The row of *gone* in a *table* that has one for each content becomes that of *kept*, if it has none."""
    if connection.scalar(select(table.c.content_id).where(table.c.content_id == kept)) is None:
        connection.execute(update(table).where(table.c.content_id == gone).values(content_id=kept))
    else:
        connection.execute(delete(table).where(table.c.content_id == gone))


def _merge_records(connection: Connection, gone: int, kept: int) -> None:
    found = connection.execute(select(record).where(record.c.content_id.in_((gone, kept)))).all()
    rows = {row.content_id: row for row in found}
    if gone not in rows:
        return
    if kept not in rows:
        connection.execute(update(record).where(record.c.content_id == gone).values(content_id=kept))
        return
    old, new = rows[gone], rows[kept]
    artifacts.join(connection, new.id, old.id)
    if artifacts.holder_of(connection, new.id) == old.id:
        artifacts.give(connection, old.id, new.id)
    set_there = overrides(connection, new.id)
    taken = {name: value for name, value in overrides(connection, old.id).items() if name not in set_there}
    put_overrides(connection, new.id, taken)
    connection.execute(delete(override).where(override.c.record_id == old.id))
    connection.execute(delete(record).where(record.c.id == old.id))
