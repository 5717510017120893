"""Several bytes, one artifact: what a user thinks of as one model, in several files or versions.

A checkpoint and the safetensors file made of it, an fp16 and an fp32 file, the file of today and the one it replaced:
each keeps a record of its own, with its verdict and its identity, so that none hides behind another. What a user writes
(tags, notes, rating, collections) belongs to the artifact. It is kept under one of the records, the *holder*, to which
the others point by ``artifact_id``; a record that points to none is its own holder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, or_, select, update

from modelhub.db.bulk import chunks
from modelhub.db.schema import collection_member, content, record, record_tag

_TELLING = ("kind", "architecture")
"""Facts by which bytes are told to be another model than those whose path they have taken."""

HOLDER: ColumnElement[int] = func.coalesce(record.c.artifact_id, record.c.id)
"""The holder of a record's artifact."""


def holder_of(connection: Connection, record_id: int) -> int:
    """The holder of the record's artifact."""
    found = connection.scalar(select(HOLDER).where(record.c.id == record_id))
    return record_id if found is None else int(found)


def members(connection: Connection, holder: int) -> list[int]:
    """The records of the artifact whose holder is *holder*, by id."""
    ours = or_(record.c.id == holder, record.c.artifact_id == holder)
    return list(connection.scalars(select(record.c.id).where(ours).order_by(record.c.id)))


def contents_of(connection: Connection, record_id: int) -> list[int]:
    """The contents of all records of the record's artifact."""
    ids = members(connection, holder_of(connection, record_id))
    return list(connection.scalars(select(record.c.content_id).where(record.c.id.in_(ids))))


def malformed() -> Select[int]:
    """Records that are of an artifact and yet have of their own what its holder keeps, or whose holder is of one."""
    member = select(record.c.id).where(record.c.artifact_id.is_not(None))
    return member.where(
        or_(
            record.c.artifact_id.in_(member),
            record.c.notes != "",
            record.c.rating.is_not(None),
            *(record.c.id.in_(select(table.c.record_id)) for table in (record_tag, collection_member)),
        )
    )


def record_of(connection: Connection, sha256: str) -> int | None:
    """The record of the bytes with this SHA-256."""
    return connection.scalar(select(record.c.id).join(content).where(content.c.sha256 == sha256))


def join(connection: Connection, record_id: int, other: int) -> bool:
    """Let the artifacts of two records be one: that of *record_id*, which takes over what the user wrote on the other:
    its tags, its collections, its notes under its own, and its rating if it has none."""
    target, source = holder_of(connection, record_id), holder_of(connection, other)
    if target == source:
        return False
    give(connection, source, target)
    return True


def give(connection: Connection, source: int, target: int) -> None:
    """Let the record *target* be the holder of its own artifact and of that which *source* holds."""
    rows = {row.id: row for row in connection.execute(select(record).where(record.c.id.in_((source, target))))}
    notes = [text for text in dict.fromkeys((rows[target].notes, rows[source].notes)) if text]
    rating = rows[target].rating if rows[target].rating is not None else rows[source].rating
    _copy_rows(connection, source, target)
    for table in (record_tag, collection_member):
        connection.execute(delete(table).where(table.c.record_id == source))
    connection.execute(update(record).where(record.c.id == source).values(notes="", rating=None))
    ours = or_(record.c.id == source, record.c.artifact_id == source)
    connection.execute(update(record).where(ours).values(artifact_id=target))
    connection.execute(
        update(record).where(record.c.id == target).values(artifact_id=None, notes="\n\n".join(notes), rating=rating)
    )


def part(connection: Connection, record_id: int) -> list[int]:
    """Let the record be an artifact of its own; it and the others each have what the user wrote on all of them.

    Returns the records that it was one artifact with.
    """
    holder = holder_of(connection, record_id)
    others = [each for each in members(connection, holder) if each != record_id]
    if not others:
        return []
    source, target = (holder, record_id) if record_id != holder else (holder, others[0])
    row = connection.execute(select(record.c.notes, record.c.rating).where(record.c.id == source)).one()
    _copy_rows(connection, source, target)
    connection.execute(
        update(record).where(record.c.id == target).values(artifact_id=None, notes=row.notes, rating=row.rating)
    )
    if target != record_id:
        connection.execute(update(record).where(record.c.artifact_id == holder).values(artifact_id=target))
    return others


def _copy_rows(connection: Connection, source: int, target: int) -> None:
    """Give *target* the tags and collections of *source* that it has not."""
    for table, name in ((record_tag, "tag"), (collection_member, "collection_id")):
        has = set(connection.scalars(select(table.c[name]).where(table.c.record_id == target)))
        rows = [
            {**row._asdict(), "record_id": target}
            for row in connection.execute(select(table).where(table.c.record_id == source))
            if getattr(row, name) not in has
        ]
        if rows:
            connection.execute(insert(table), rows)


def holders_before(connection: Connection, replaced: Iterable[tuple[int, int, Mapping[str, object]]]) -> dict[int, int]:
    """Which new contents are versions of the artifacts whose files they replace, and those artifacts' holders.

    *replaced* are the content that a path held before, the one that it holds now, and what that is told to be. New
    bytes under an old name are a version of what the user has there, unless they are of another kind or architecture.
    """
    pairs = list(replaced)
    before = {
        row.content_id: row
        for chunk in chunks(old for old, _, _ in pairs)
        for row in connection.execute(select(record).where(record.c.content_id.in_(chunk)))
    }
    return {
        new: before[old].artifact_id or before[old].id
        for old, new, facts in pairs
        if old in before and _may_be_one(before[old]._asdict(), facts)
    }


def _may_be_one(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    return all(None in (before[name], after[name]) or before[name] == after[name] for name in _TELLING)


def put_successor(connection: Connection, before: int, after: int) -> bool:
    """Let the new record *after* be a version of the artifact of *before*, whose path its bytes have taken, unless they
    are of another kind or architecture."""
    rows = {row.id: row._asdict() for row in connection.execute(select(record).where(record.c.id.in_((before, after))))}
    return _may_be_one(rows[before], rows[after]) and join(connection, before, after)
