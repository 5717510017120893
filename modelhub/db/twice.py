"""Two accounts of the same bytes, made one: what both say is said once, and the newest word is in force."""

from __future__ import annotations

from sqlalchemy import Connection, Table, delete, func, insert, select, update

from modelhub.db import merging
from modelhub.db.artifacts import holder_of
from modelhub.db.schema import content, metadata, record

_HISTORY = tuple(t for t in metadata.sorted_tables if t is not record and {"id", "content_id"} <= set(t.c.keys()))
"""Tables that have several rows for one content."""
_IN_FORCE = tuple(table for table in _HISTORY if "version" in table.c)
"""Those of them of which the last row counts: what a program said."""


def unite(connection: Connection, new: int, known: int) -> None:
    """Let the content *new*, which an import has brought, be the content *known* from now on."""
    sha256 = connection.scalar(select(content.c.sha256).where(content.c.id == new))
    _spare_notes(connection, new, known)
    if sha256 is not None:
        connection.execute(update(content).where(content.c.id == new).values(sha256=None))
        connection.execute(
            update(content).where(content.c.id == known, content.c.sha256.is_(None)).values(sha256=sha256)
        )
    merging.merge(connection, new, known)


def tidy(connection: Connection, known: int) -> None:
    """Say once what is said twice of the content, and let the newest word be in force.

    For when all that are the same bytes have been united: what is said of one may name another.
    """
    for table in _HISTORY:
        _drop_repeated(connection, table, known)
    for table in _IN_FORCE:
        _put_newest_last(connection, table, known)


def _spare_notes(connection: Connection, new: int, known: int) -> None:
    """Take from either side the notes that the other has word for word: uniting them would write them twice."""
    ids = [connection.scalar(select(record.c.id).where(record.c.content_id == each)) for each in (new, known)]
    if None in ids:
        return
    arrived, here = (holder_of(connection, each) for each in ids if each is not None)
    if arrived == here:
        return
    found = connection.execute(select(record.c.id, record.c.notes).where(record.c.id.in_((arrived, here))))
    notes = {row.id: f"\n\n{row.notes}\n\n" for row in found}
    if notes[arrived] in notes[here]:
        connection.execute(update(record).where(record.c.id == arrived).values(notes=""))
    elif notes[here] in notes[arrived]:
        connection.execute(update(record).where(record.c.id == here).values(notes=""))


def _drop_repeated(connection: Connection, table: Table, content_id: int) -> None:
    """Keep the first of the rows that say the same of the content."""
    said: set[tuple[str, ...]] = set()
    repeated = []
    for row in connection.execute(select(table).where(table.c.content_id == content_id).order_by(table.c.id)):
        facts = tuple(repr(value) for name, value in row._asdict().items() if name != "id")
        if facts in said:
            repeated.append(row.id)
        said.add(facts)
    if repeated:
        for child, name in _children(table):
            connection.execute(delete(child).where(child.c[name].in_(repeated)))
        connection.execute(delete(table).where(table.c.id.in_(repeated)))


def _put_newest_last(connection: Connection, table: Table, content_id: int) -> None:
    """Give the newest row the highest id, by which rows are told to be the newest."""
    mine = table.c.content_id == content_id
    rows = connection.execute(select(table.c.id, table.c.added).where(mine).order_by(table.c.added, table.c.id)).all()
    if not rows or rows[-1].id == max(row.id for row in rows):
        return
    old = rows[-1].id
    highest = connection.scalar(select(func.max(table.c.id))) or 0
    row = connection.execute(select(table).where(table.c.id == old)).one()
    connection.execute(insert(table).values({**row._asdict(), "id": highest + 1}))
    for child, name in _children(table):
        connection.execute(update(child).where(child.c[name] == old).values({name: highest + 1}))
    connection.execute(delete(table).where(table.c.id == old))


def _children(table: Table) -> list[tuple[Table, str]]:
    return [
        (child, key.parent.name)
        for child in metadata.sorted_tables
        for key in child.foreign_keys
        if key.column.table is table and child is not table
    ]
