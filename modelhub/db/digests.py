"""Digests of bytes: what was computed, what is only claimed, and what computing them brings together or apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select, update

from modelhub.db import merging, search
from modelhub.db.bulk import insert_many
from modelhub.db.clock import now
from modelhub.db.engine import Store
from modelhub.db.facts import settle
from modelhub.db.places import ToHash
from modelhub.db.recording import index_record
from modelhub.db.schema import component, content, content_digest, header, identification, location, record, search_text
from modelhub.db.text import name_for, path_key
from modelhub.errors import CatalogError
from modelhub.source import FileStat
from modelhub.source.digests import Part


def put_claims(connection: Connection, claims: Sequence[tuple[int, str, str, str]]) -> None:
    """Let the contents' claimed digests of these sources be *claims*: content, algorithm, value and source."""
    for content_id, _, _, source in claims:
        connection.execute(
            delete(content_digest).where(
                content_digest.c.content_id == content_id,
                content_digest.c.origin == "claimed",
                content_digest.c.source == source,
            )
        )
    put_new_claims(connection, claims)


def put_new_claims(connection: Connection, claims: Sequence[tuple[int, str, str, str]]) -> None:
    """:func:`put_claims` for contents that have none."""
    at = now()
    rows = [
        {
            "content_id": content_id,
            "algorithm": algorithm,
            "origin": "claimed",
            "source": source,
            "value": value,
            "added": at,
        }
        for content_id, algorithm, value, source in claims
    ]
    insert_many(connection, content_digest, rows)


class Digests:
    """The catalog's digests. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def to_compute(self, record_ids: Sequence[int] | None, *, components: bool = False) -> list[ToHash]:
        """The places to read so that every digest is known, and every place proven; of these records, or of all.

        One place for each content that lacks digests, the smallest first, and every place that is not proven. With
        *components* one for each content whose tensors are known, but not its components, too.
        """

        def work(connection: Connection) -> list[ToHash]:
            computed = select(content_digest.c.content_id).where(content_digest.c.origin == "computed")
            others = ~location.c.is_folder & content.c.id.not_in(computed)  # a folder has no other digests
            lacking = content.c.sha256.is_(None) | others
            if components:
                lacking |= _has_tensors() & content.c.id.not_in(select(component.c.content_id))
            wanted = (
                select(
                    location.c.id,
                    location.c.content_id,
                    location.c.path,
                    location.c.size,
                    location.c.mtime_ns,
                    location.c.device,
                    location.c.inode,
                    location.c.is_folder,
                    lacking.label("lacking"),
                    location.c.proven,
                )
                .join(content, content.c.id == location.c.content_id)
                .where(
                    location.c.live_key.is_not(None),
                    location.c.state == "live",
                    or_(lacking, ~location.c.proven),
                )
                .order_by(location.c.size, location.c.content_id, location.c.proven.desc(), location.c.id)
            )
            if record_ids is not None:
                owned = select(record.c.content_id).where(record.c.id.in_(record_ids))
                wanted = wanted.where(content.c.id.in_(owned))
            chosen, begun = [], set()
            for row in connection.execute(wanted):
                if row.proven and (row.content_id in begun or not row.lacking):
                    continue
                begun.add(row.content_id)
                chosen.append(ToHash(row.id, row.content_id, _stat(row), row.is_folder))
            return chosen

        return self._store.read(work)

    def put(self, place: ToHash, digests: Mapping[str, str], components: Sequence[Part] = ()) -> None:
        """Write down the *digests* of the bytes at *place*, ``sha256`` among them, and their *components* if there are
        any.

        Contents that turn out to be the same bytes become one; a place whose bytes turn out to be others than were
        assumed gets a record of its own. Nothing is written when the place has changed since.
        """
        if "sha256" not in digests:
            raise CatalogError(f"{place.stat.path}: its digests have no SHA-256")

        def work(connection: Connection) -> None:
            content_id = _prove(connection, place, digests["sha256"])
            if content_id is None:
                return
            _put_computed(connection, content_id, digests)
            if components:
                _put_components(connection, content_id, components)

        self._store.write(work)

    def at(self, paths: Sequence[str]) -> dict[FileStat, str]:
        """The SHA-256 of the files at the absolute *paths*, as far as they are known, each by what the file system
        said of the file when its bytes were read."""
        wanted = (
            select(location, content.c.sha256)
            .join(content, location.c.content_id == content.c.id)
            .where(
                location.c.live_key.in_(map(path_key, paths)),
                location.c.proven,
                ~location.c.is_folder,
                content.c.sha256.is_not(None),
            )
        )
        rows = self._store.read(lambda connection: connection.execute(wanted).all())
        return {_stat(row): row.sha256 for row in rows}

    def learn(self, found: Mapping[FileStat, str]) -> None:
        """Write down SHA-256 that were computed elsewhere, of those files of which the catalog has none.

        As :meth:`put`, without the other digests. A file that the catalog has not, or has as another, is passed over.
        """

        def work(connection: Connection) -> None:
            for stat, sha256 in found.items():
                row = connection.execute(
                    select(location)
                    .join(content, location.c.content_id == content.c.id)
                    .where(
                        location.c.live_key == path_key(stat.path),
                        ~location.c.is_folder,
                        or_(content.c.sha256.is_(None), ~location.c.proven),
                    )
                ).one_or_none()
                if row is not None:
                    _prove(connection, ToHash(row.id, row.content_id, stat, row.is_folder), sha256)

        self._store.write(work)


def _stat(row: Any) -> FileStat:
    return FileStat(row.path, row.size, int(row.mtime_ns), int(row.device), int(row.inode))


def _prove(connection: Connection, place: ToHash, sha256: str) -> int | None:
    """Let the bytes at *place* be those of *sha256*, and say which content that is; ``None`` if it has changed."""
    unchanged = and_(
        location.c.id == place.place_id,
        location.c.live_key.is_not(None),
        *(location.c[name] == value for name, value in search.stamp(place.stat).items()),
    )
    row = connection.execute(
        select(location.c.content_id, location.c.proven, content.c.sha256)
        .join(content, location.c.content_id == content.c.id)
        .where(unchanged)
    ).one_or_none()
    if row is None:
        return None
    content_id: int = row.content_id
    known = connection.scalar(select(content.c.id).where(content.c.sha256 == sha256))
    if row.sha256 is None and known is None:
        connection.execute(update(content).where(content.c.id == content_id).values(sha256=sha256))
        if not row.proven:
            _doubt_others(connection, place)
    elif row.sha256 is None and known is not None:
        merging.merge(connection, content_id, known)
        content_id = known
    elif row.sha256 != sha256:
        content_id = _part(connection, place, content_id, known, sha256)
    connection.execute(update(location).where(location.c.id == place.place_id).values(proven=True))
    return content_id


def _doubt_others(connection: Connection, place: ToHash) -> None:
    """What is known of the content from now on was read at *place*, which was told by its header: other files of the
    same header, on a disk that was away say, have not been read."""
    is_it = and_(location.c.device == str(place.stat.dev), location.c.inode == str(place.stat.ino))
    others = update(location).where(location.c.content_id == place.content_id, location.c.live_key.is_not(None), ~is_it)
    connection.execute(others.values(proven=False))


def _put_computed(connection: Connection, content_id: int, digests: Mapping[str, str]) -> None:
    connection.execute(
        delete(content_digest).where(content_digest.c.content_id == content_id, content_digest.c.origin == "computed")
    )
    rows = [
        {
            "content_id": content_id,
            "algorithm": algorithm,
            "origin": "computed",
            "source": "",
            "value": value,
            "added": now(),
        }
        for algorithm, value in digests.items()
        if algorithm != "sha256"
    ]
    if rows:
        connection.execute(insert(content_digest), rows)


def _has_tensors() -> ColumnElement[bool]:
    known = content_digest.c.algorithm == "tensors", content_digest.c.origin == "computed"
    return content.c.id.in_(select(content_digest.c.content_id).where(*known))


def _put_components(connection: Connection, content_id: int, components: Sequence[Part]) -> None:
    connection.execute(delete(component).where(component.c.content_id == content_id))
    connection.execute(insert(component), [{"content_id": content_id, **each._asdict()} for each in components])


def _part(connection: Connection, place: ToHash, assumed: int, known: int | None, sha256: str) -> int:
    """The bytes at *place* are not those of *assumed*: they are those of *known*, or new ones with the same header."""
    if known is None:
        old = connection.execute(select(content).where(content.c.id == assumed)).one()
        values = {**old._asdict(), "sha256": sha256, "added": now()}
        del values["id"]
        key = connection.execute(insert(content).values(values)).inserted_primary_key
        assert key is not None
        known = int(key[0])
        _copy(connection, assumed, known)
        connection.execute(
            insert(record).values(
                content_id=known, name=name_for(place.stat.path, place.is_folder), notes="", added=now()
            )
        )
    connection.execute(update(location).where(location.c.id == place.place_id).values(content_id=known))
    settle(connection, known)
    for each in (assumed, known):
        index_record(connection, each)
    return known


def _copy(connection: Connection, source: int, target: int) -> None:
    """What the header says of the one is said of the other, whose header is the same."""
    for table in (header, search_text):
        row = connection.execute(select(table).where(table.c.content_id == source)).one_or_none()
        if row is not None:
            connection.execute(insert(table).values({**row._asdict(), "content_id": target}))
    newest = (
        select(identification)
        .where(identification.c.content_id == source)
        .order_by(identification.c.id.desc())
        .limit(1)
    )
    row = connection.execute(newest).one_or_none()
    if row is not None:
        values = {**row._asdict(), "content_id": target}
        del values["id"]
        connection.execute(insert(identification).values(values))
