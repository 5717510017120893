"""Collections: named sets of artifacts, in the user's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from modelhub.db.artifacts import holder_of
from modelhub.db.clock import now
from modelhub.db.column_types import NAME_LENGTH
from modelhub.db.details import select_entry
from modelhub.db.engine import Store
from modelhub.db.entries import Collection
from modelhub.db.schema import collection, collection_member
from modelhub.db.search import collection_named
from modelhub.db.text import name_key
from modelhub.errors import CatalogError, Conflict

T = TypeVar("T")


class Collections:
    """The catalog's collections. Every method is one transaction.

    Names are told apart without case, as files are on half of all computers. Methods that take the name of a collection
    that is not there raise :class:`Conflict`, naming those that are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[Collection]:
        """Every collection, by name."""
        return self._store.read(_collections)

    def create(self, name: str) -> Collection:
        """Make the collection *name*, its spaces made single. Raises :class:`CatalogError` for what is no name, and
        :class:`Conflict` when there is one of this name."""
        name = checked_name(name)

        def work(connection: Connection) -> Collection:
            if _collections(connection, collection.c.name_key == name_key(name)):
                raise Conflict(f"{name}: there is a collection of this name")
            connection.execute(insert(collection).values(name=name, name_key=name_key(name), added=now()))
            return _collections(connection, collection.c.name_key == name_key(name))[0]

        return self._store.write(work)

    def delete(self, name: str) -> Collection:
        """Delete the collection *name*; its records stay."""

        def work(connection: Connection, each: Collection) -> None:
            connection.execute(delete(collection_member).where(collection_member.c.collection_id == each.id))
            connection.execute(delete(collection).where(collection.c.id == each.id))

        return self._with(name, work)[0]

    def add(self, name: str, selectors: Sequence[str]) -> int:
        """Put the artifacts of the records that *selectors* fit into the collection *name*, all or none; returns how
        many were not in it."""

        def work(connection: Connection, each: Collection) -> int:
            new = _holders(connection, selectors) - _members(connection, each.id)
            rows = [{"collection_id": each.id, "record_id": holder, "added": now()} for holder in sorted(new)]
            if rows:
                connection.execute(insert(collection_member), rows)
            return len(rows)

        return self._with(name, work)[1]

    def remove(self, name: str, selectors: Sequence[str]) -> int:
        """Take those artifacts out of the collection *name*; returns how many were in it."""

        def work(connection: Connection, each: Collection) -> int:
            gone = _holders(connection, selectors) & _members(connection, each.id)
            ours = collection_member.c.collection_id == each.id, collection_member.c.record_id.in_(sorted(gone))
            return connection.execute(delete(collection_member).where(*ours)).rowcount

        return self._with(name, work)[1]

    def _with(self, name: str, work: Callable[[Connection, Collection], T]) -> tuple[Collection, T]:
        def found(connection: Connection) -> tuple[Collection, T]:
            (each,) = _collections(connection, collection.c.id == collection_named(connection, name))
            return each, work(connection, each)

        return self._store.write(found)


def checked_name(name: str) -> str:
    """*name* as a collection is called. Raises :class:`CatalogError` for one that is empty, long, or not printable."""
    name = " ".join(name.split())
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise CatalogError(
            f"{name[:40]!r}: a collection's name is 1 to {NAME_LENGTH} characters that can be seen",
            hint="choose another name",
        )
    return name


def _collections(connection: Connection, *conditions: ColumnElement[bool]) -> list[Collection]:
    rows = connection.execute(
        select(collection.c.id, collection.c.name, func.count(collection_member.c.record_id), collection.c.added)
        .outerjoin(collection_member, collection_member.c.collection_id == collection.c.id)
        .where(*conditions)
        .group_by(collection.c.id, collection.c.name, collection.c.added)
    )
    return sorted((Collection(*row) for row in rows), key=lambda each: (each.name.casefold(), each.id))


def _holders(connection: Connection, selectors: Sequence[str]) -> set[int]:
    return {holder_of(connection, select_entry(connection, selector, any_version=True).id) for selector in selectors}


def _members(connection: Connection, collection_id: int) -> set[int]:
    ours = collection_member.c.collection_id == collection_id
    return set(connection.scalars(select(collection_member.c.record_id).where(ours)))
