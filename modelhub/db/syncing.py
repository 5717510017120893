"""Writing down what a sync found: one batch, one transaction.

A batch may be the last that is written before the power goes. So each leaves the catalog in a state that the next sync
can start from: no bytes are known without a record, and no place is forgotten, at worst it is called missing until the
next sync finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, delete, select, update

from modelhub.db.artifacts import holders_before
from modelhub.db.bulk import chunks, insert_many, new_ids
from modelhub.db.clock import now
from modelhub.db.columns import AS_JSON
from modelhub.db.digests import put_claims, put_new_claims
from modelhub.db.facts import FACTS, settle
from modelhub.db.places import Batch, Change, Known, Moved, Reading, Seen
from modelhub.db.recording import index_record, index_records
from modelhub.db.schema import (
    change,
    content,
    header,
    identification,
    layout,
    location,
    record,
    search_text,
)
from modelhub.db.text import name_for, path_key

_STAMP = (
    update(location)
    .where(location.c.id == bindparam("place"))
    .values({name: bindparam(name) for name in ("root_id", "size", "mtime_ns", "device", "inode", "link", "is_folder")})
)
_ALIVE = _STAMP.values(state="live")
_UNPROVEN = _STAMP.values(state="live", proven=False)


def write_batch(connection: Connection, batch: Batch) -> list[Change]:
    """Write *batch* down; returns the changes to tell of."""
    changed: list[tuple[int, Change]] = []
    if batch.seen_again:
        connection.execute(_ALIVE, [_stamped(known.id, seen) for known, seen in batch.seen_again])
        back = [(known, seen) for known, seen in batch.seen_again if known.state == "offline"]
        changed += [(known.content_id, Change("returned", seen.path)) for known, seen in back]
    _move(connection, batch, changed)
    if batch.touched:
        connection.execute(_UNPROVEN, [_stamped(known.id, seen) for known, seen in batch.touched])
        changed += [(known.content_id, Change("touched", seen.path)) for known, seen in batch.touched]
    for known, seen, reading in batch.grown:
        _grow(connection, known, seen, reading)
        changed.append((known.content_id, Change("grown", seen.path)))
    for content_id, seen in batch.linked:
        _vacate(connection, [seen])
        _put_places(connection, [(content_id, seen, True)])
        changed.append((content_id, Change("linked", seen.path)))
    _add(connection, batch.added, changed)
    if batch.missing:
        ends = [{"place": known.id, "at": now()} for known in batch.missing]
        ended = update(location).where(location.c.id == bindparam("place"))
        connection.execute(ended.values(live_key=None, state="missing", ended=bindparam("at")), ends)
        changed += [(known.content_id, Change("vanished", known.path)) for known in batch.missing]
    for known in batch.away:
        connection.execute(update(location).where(location.c.id == known.id).values(state="offline"))
        changed.append((known.content_id, Change("offline", known.path)))
    moved = [each.known.content_id for each in batch.moved]
    gone = [each.content_id for each in batch.missing]
    index_records(connection, {*moved, *gone, *(content_id for content_id, _ in batch.linked)})
    _put_changes(connection, changed)
    return [each for _, each in changed]


def _stamped(place: int, seen: Seen) -> dict[str, object]:
    return {
        "place": place,
        "root_id": seen.root_id,
        "size": seen.size,
        "mtime_ns": str(seen.mtime_ns),
        "device": str(seen.dev),
        "inode": str(seen.ino),
        "link": seen.link,
        "is_folder": seen.is_folder,
    }


def _vacate(connection: Connection, arriving: Iterable[Seen]) -> None:
    """End what the catalog still knows at the paths of *arriving*: who has gone elsewhere is found by its row."""
    for keys in chunks(path_key(seen.path) for seen in arriving):
        there = select(location.c.id).where(location.c.live_key.in_(keys))
        connection.execute(
            update(location).where(location.c.id.in_(there)).values(live_key=None, state="missing", ended=now())
        )


def _move(connection: Connection, batch: Batch, changed: list[tuple[int, Change]]) -> None:
    if not batch.moved:
        return
    _vacate(connection, [move.seen for move in batch.moved])
    proofs: dict[int, bool] = {}
    for move in batch.moved:
        row = connection.execute(
            select(location.c.proven, location.c.ended).where(location.c.id == move.known.id)
        ).one()
        proofs[move.known.id] = row.proven and move.proven
        if not move.stays:
            connection.execute(
                update(location)
                .where(location.c.id == move.known.id)
                .values(live_key=None, state="moved", ended=row.ended or now())
            )
    _put_places(connection, [(move.known.content_id, move.seen, proofs[move.known.id]) for move in batch.moved])
    _rename(connection, [move for move in batch.moved if not move.stays])
    for move in batch.moved:
        previous = move.known.path if move.known.path != move.seen.path else None
        changed.append((move.known.content_id, Change(move.kind, move.seen.path, previous)))


def _rename(connection: Connection, moves: Iterable[Moved]) -> None:
    """Let a record that is called after its file be called so after a move, too."""
    names = [
        {"content": move.known.content_id, "old": old, "new": new}
        for move in moves
        if (old := name_for(move.known.path, move.known.is_folder))
        != (new := name_for(move.seen.path, move.seen.is_folder))
    ]
    if names:
        called = record.c.content_id == bindparam("content"), record.c.name == bindparam("old")
        connection.execute(update(record).where(*called).values(name=bindparam("new")), names)


def _put_places(connection: Connection, places: Sequence[tuple[int, Seen, bool]]) -> None:
    at = now()
    rows = []
    for content_id, seen, proven in places:
        row = _stamped(0, seen)
        del row["place"]
        row |= {"content_id": content_id, "path": seen.path, "live_key": path_key(seen.path), "state": "live"}
        rows.append(row | {"proven": proven, "added": at})
    insert_many(connection, location, rows)


def _grow(connection: Connection, known: Known, seen: Seen, reading: Reading) -> None:
    """The download at the place has got further: the same record, of more bytes."""
    content_id = known.content_id
    connection.execute(_ALIVE, [_stamped(known.id, seen)])
    connection.execute(update(content).where(content.c.id == content_id).values(_described(seen, reading)))
    connection.execute(delete(header).where(header.c.content_id == content_id))
    _put_headers(connection, [(content_id, reading)])
    _put_identifications(connection, [(content_id, reading)])
    words = update(search_text).where(search_text.c.content_id == content_id)
    connection.execute(words.values(words=reading.words))
    put_claims(connection, [(content_id, *claim) for claim in reading.claims])
    settle(connection, content_id)
    index_record(connection, content_id)


def _described(seen: Seen, reading: Reading) -> dict[str, object]:
    return {
        "size": seen.size,
        "header_sha256": reading.header,
        "sample_sha256": reading.sample,
        "container": reading.container,
        "problem": reading.problem,
        "metadata_sha256": reading.metadata_sha256,
    }


def _add(
    connection: Connection,
    added: Sequence[tuple[Known | None, Seen, Reading]],
    changed: list[tuple[int, Change]],
) -> None:
    """Bytes never seen: a content, a record, a place and an identification each."""
    if not added:
        return
    _vacate(connection, [seen for _, seen, _ in added])
    before = [known for known, _, _ in added if known is not None]
    if before:
        replaced = update(location).where(location.c.id == bindparam("place")).values(state="replaced")
        connection.execute(replaced, [{"place": known.id} for known in before])
    at = now()
    ids = new_ids(connection, content, len(added))
    found = [(content_id, seen, reading) for content_id, (_, seen, reading) in zip(ids, added, strict=True)]
    insert_many(
        connection,
        content,
        [{"id": content_id, **_described(seen, reading), "added": at} for content_id, seen, reading in found],
    )
    holders = holders_before(
        connection,
        (
            (known.content_id, content_id, reading.identity)
            for (content_id, _, reading), (known, _, _) in zip(found, added, strict=True)
            if known is not None
        ),
    )
    insert_many(
        connection,
        record,
        [
            {
                "content_id": content_id,
                "artifact_id": holders.get(content_id),
                "name": name_for(seen.path, seen.is_folder),
                "notes": "",
                "added": at,
                "container": reading.container,
                "triggers": reading.triggers,
                **{name: reading.identity[name] for name in FACTS},
            }
            for content_id, seen, reading in found
        ],
        stored=("triggers",),
    )
    _put_headers(connection, [(content_id, reading) for content_id, _, reading in found])
    _put_identifications(connection, [(content_id, reading) for content_id, _, reading in found])
    insert_many(
        connection,
        search_text,
        [
            {"content_id": content_id, "about": reading.about, "words": reading.words}
            for content_id, _, reading in found
        ],
        stored=("about", "words"),
        together=True,
    )
    put_new_claims(connection, [(content_id, *claim) for content_id, _, reading in found for claim in reading.claims])
    _put_places(connection, [(content_id, seen, True) for content_id, seen, _ in found])
    index_records(connection, {*(known.content_id for known in before), *holders})
    for (content_id, seen, _), (known, _, _) in zip(found, added, strict=True):
        changed.append((content_id, Change("added" if known is None else "replaced", seen.path)))


def _put_headers(connection: Connection, found: Sequence[tuple[int, Reading]]) -> None:
    ids: dict[str, int] = {}
    for wanted in chunks({reading.layout_digest for _, reading in found}):
        known = connection.execute(select(layout.c.digest, layout.c.id).where(layout.c.digest.in_(wanted)))
        ids |= {row.digest: row.id for row in known}
    new = {
        reading.layout_digest: reading.layout
        for _, reading in found
        if reading.layout is not None and reading.layout_digest not in ids
    }
    ids |= zip(new, new_ids(connection, layout, len(new)), strict=True)
    rows = [{"id": ids[digest], "digest": digest, "packed": packed} for digest, packed in new.items()]
    insert_many(connection, layout, rows)
    insert_many(
        connection,
        header,
        [
            {
                "content_id": content_id,
                "layout_id": ids.get(reading.layout_digest),
                "metadata": reading.metadata,
                "observation": reading.observation,
            }
            for content_id, reading in found
        ],
        stored=("metadata", "observation"),
    )


def _put_identifications(connection: Connection, found: Sequence[tuple[int, Reading]]) -> None:
    at = now()
    rows = [
        {"content_id": content_id, **reading.identity, "version": reading.version, "added": at}
        for content_id, reading in found
    ]
    insert_many(connection, identification, rows, stored=AS_JSON)


def _put_changes(connection: Connection, changed: Sequence[tuple[int, Change]]) -> None:
    at = now()
    rows = [
        {"content_id": content_id, "kind": each.kind, "path": each.path, "previous": each.previous, "at": at}
        for content_id, each in changed
    ]
    insert_many(connection, change, rows)
