"""Rows that come from another catalog, and where in this one they belong."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, update

from modelhub.db import artifacts
from modelhub.db.rebuilding import derive
from modelhub.db.rows import CARRIED
from modelhub.db.schema import content, library_root, location, metadata
from modelhub.db.twice import tidy, unite
from modelhub.errors import CatalogError

_AT_ONCE = 500  # rows inserted at a time
_STAMP = ("path", "size", "mtime_ns", "device", "inode")


class Arrivals:
    """The rows of one import. ``number`` is how many there have been.

    Rows get the ids after the catalog's, in their order; those of an empty one stay as they were. A row that is
    the only one with what it says (a library's path, a collection's name) is not inserted where the catalog has it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.number = 0
        self._waiting: tuple[Table, list[dict[str, Any]]] | None = None
        self._offsets = {table.name: self._highest(table) for table in CARRIED if "id" in table.c}
        self._ids: dict[str, dict[int, int | None]] = {table.name: {} for table in CARRIED}
        """Where rows with ids have gone; to ``None``, those that have no place here."""
        self._both: dict[str, set[int]] = {table.name: set() for table in CARRIED}
        """Ids of rows that were here before and are the import's as well."""
        self._later: list[tuple[Table, str, int, int]] = []
        self._unique = {table.name: self._unique_values(table) for table in CARRIED}
        self._roots = list(connection.scalars(select(library_root.c.path)))
        places = select(location.c.id, location.c.content_id, *(location.c[name] for name in _STAMP))
        rows = connection.execute(places.order_by(location.c.id.desc()))
        self._places = {tuple(stamp): (id_, content_id) for id_, content_id, *stamp in rows}
        self._twins: dict[int, int] = {}
        """Contents that came in, and those of the catalog that are the same bytes."""

    def put(self, table: Table, row: dict[str, Any]) -> None:
        """Put *row*, checked by :func:`modelhub.db.rows.from_plain`, where it belongs."""
        self.number += 1
        old = row.get("id")
        if old is not None:
            if old in self._ids[table.name]:
                raise CatalogError(f"{table.name} has two rows with the id {old}")
            before = self._offsets[table.name]
            row["id"] = self._ids[table.name][old] = before + len(self._ids[table.name]) + 1 if before else old
        is_lost, only_both = self._refer(table, row, old)
        if table is content:
            self._meet_content(row)
        elif table is location:
            is_lost = is_lost or not self._find_room(row)
        elif table is library_root and self._overlaps(row["path"]):
            is_lost = True
        known = self._unique_row(table, row)
        if known is not None and old is not None:
            self._ids[table.name][old] = known
            self._both[table.name].add(known)
        elif is_lost and old is not None:
            self._ids[table.name][old] = None
        elif known is None and not is_lost and not (only_both and self._is_here(table, row)):
            for name in _unique(table):
                if row[name] is not None:
                    self._unique[table.name][name, row[name]] = row["id"]
            self._insert(table, row)

    def settle(self) -> None:
        """Make what has come in one with what was here."""
        self._flush()
        for table, name, old, value in self._later:
            if value not in self._ids[table.name]:
                raise CatalogError(f"a row of {table.name} refers to one that is not there: {value}")
            mine, other = self._ids[table.name][old], self._ids[table.name][value]
            self._connection.execute(update(table).where(table.c.id == mine).values({name: other}))
        if self._connection.execute(artifacts.malformed().limit(1)).first() is not None:
            raise CatalogError("a record has of its own what belongs to its artifact")
        arrived = [each for each in self._ids[content.name].values() if each is not None]
        derive(self._connection, [each for each in arrived if each not in self._twins])
        for new, known in self._twins.items():
            unite(self._connection, new, known)
        for known in sorted(set(self._twins.values())):
            tidy(self._connection, known)
        derive(self._connection, sorted(set(self._twins.values())))
        self._count_on()

    def _highest(self, table: Table) -> int:
        return self._connection.scalar(select(func.max(table.c.id))) or 0

    def _refer(self, table: Table, row: dict[str, Any], old: int | None) -> tuple[bool, bool]:
        """Let *row* refer to where the rows that it refers to have gone; whether one of them has gone nowhere, and
        whether all of them were here before."""
        is_lost, only_both = False, bool(table.foreign_keys)
        for key in table.foreign_keys:
            name, parent = key.parent.name, key.column.table.name
            value = row[name]
            if value is None:
                continue
            if parent == table.name:
                assert old is not None
                self._later.append((table, name, old, value))
                row[name] = None
                continue
            if value not in self._ids[parent]:
                raise CatalogError(f"a row of {table.name} refers to one of {parent} that is not there: {value}")
            row[name] = self._ids[parent][value]
            is_lost = is_lost or (row[name] is None and not key.parent.nullable)
            only_both = only_both and row[name] in self._both[parent]
        return is_lost, only_both

    def _meet_content(self, row: dict[str, Any]) -> None:
        known = self._unique[content.name].get(("sha256", row["sha256"]))
        if known is not None:
            self._twins[row["id"]] = known
            row["sha256"] = None

    def _find_room(self, row: dict[str, Any]) -> bool:
        """Whether the place *row* is still to be inserted; where its path is taken, as one that was replaced."""
        if not self._offsets[location.name]:
            if ("live_key", row["live_key"]) in self._unique[location.name]:
                raise CatalogError(f"two files at one path: {row['path']}")
            return True
        place, there = self._places.get(tuple(row[name] for name in _STAMP), (None, None))
        if there is not None and self._may_be_one(row["content_id"], there):
            self._twins.setdefault(row["content_id"], there)
        holder = self._unique[location.name].get(("live_key", row["live_key"]))
        if holder is None:
            return True
        if place == holder and self._twins.get(row["content_id"]) == there:
            return False
        self._flush()
        taken = select(location.c.added).where(location.c.id == holder)
        row |= {"live_key": None, "state": "replaced", "ended": self._connection.scalar(taken)}
        return True

    def _may_be_one(self, new: int, known: int) -> bool:
        """Whether the two, of the same file by its inode, are not told apart by their digests."""
        self._flush()
        both = self._connection.scalars(select(content.c.sha256).where(content.c.id.in_((new, known))))
        return None in both.all()

    def _overlaps(self, path: str) -> bool:
        """Whether the folder lies in, or around, one that the catalog followed before."""
        own = path.rstrip(os.sep) + os.sep
        others = (each.rstrip(os.sep) + os.sep for each in self._roots)
        return any(own != each and (own.startswith(each) or each.startswith(own)) for each in others)

    def _unique_row(self, table: Table, row: dict[str, Any]) -> int | None:
        """The id of the row that is this one already."""
        if table in (content, location):
            return None
        for name in _unique(table):
            if (name, row[name]) in self._unique[table.name]:
                return self._unique[table.name][name, row[name]]
        return None

    def _is_here(self, table: Table, row: dict[str, Any]) -> bool:
        same = select(table).where(*(column == row[column.name] for column in table.primary_key.columns))
        return "id" not in table.c and self._connection.execute(same).first() is not None

    def _insert(self, table: Table, row: dict[str, Any]) -> None:
        if self._waiting is not None and (self._waiting[0] is not table or len(self._waiting[1]) == _AT_ONCE):
            self._flush()
        if self._waiting is None:
            self._waiting = (table, [])
        self._waiting[1].append(row)

    def _flush(self) -> None:
        if self._waiting is not None:
            (table, rows), self._waiting = self._waiting, None
            self._connection.execute(insert(table), rows)

    def _unique_values(self, table: Table) -> dict[tuple[str, Any], int]:
        known: dict[tuple[str, Any], int] = {}
        for name in _unique(table):
            rows = self._connection.execute(select(table.c.id, table.c[name]).where(table.c[name].is_not(None)))
            known |= {(name, value): int(id_) for id_, value in rows}
        return known

    def _count_on(self) -> None:
        """Let PostgreSQL give ids after those that came in."""
        if self._connection.dialect.name != "postgresql":
            return
        for table in metadata.sorted_tables:
            if "id" in table.c and (highest := self._highest(table)):
                sequence = func.pg_get_serial_sequence(table.name, "id")
                self._connection.execute(select(func.setval(sequence, highest)))


def _unique(table: Table) -> list[str]:
    """The columns of which no two rows of *table* have the same, but for its id and what it refers to."""
    return [column.name for column in table.columns if column.unique and not column.foreign_keys and "id" in table.c]
