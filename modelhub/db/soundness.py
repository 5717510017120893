"""Whether a catalog is sound: what its database guarantees, and what every program that writes to it keeps to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from sqlalchemy import Connection, Table, and_, func, select
from sqlalchemy.exc import DBAPIError

from modelhub.db import artifacts
from modelhub.db.schema import content, metadata, record, search_text
from modelhub.errors import CatalogError

_AT_MOST = 20
"""Faults of one sort that are named: a damaged file has as many as it has pages."""


def faults(connection: Connection) -> list[str]:
    """What is wrong with the catalog of *connection*, in words; nothing for a sound one."""
    if connection.dialect.name == "sqlite":
        found = [*_of_sqlite(connection)]
    else:
        found = [*_of_rows(connection)]
        if connection.dialect.name == "postgresql":
            found += _of_postgresql_indexes(connection)
    return found or [*_of_meaning(connection)]


def _of_sqlite(connection: Connection) -> Iterator[str]:
    pages = connection.exec_driver_sql(f"PRAGMA integrity_check({_AT_MOST})")
    yield from (str(row[0]) for row in pages if row[0] != "ok")
    for table, row_id, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(_AT_MOST):
        yield f"row {row_id} of {table} refers to a row of {parent} that is not there"
    for table in ("search_about", "search_words"):
        try:  # FTS5's own check, which compares the index with the text (sqlite.org/fts5.html, section 6.5)
            check = f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)"  # noqa: S608 (names of ours)
            connection.exec_driver_sql(check)
        except DBAPIError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY:
                hint = "check a copy of it: 'modelhub db backup' makes one"
                raise CatalogError("a catalog that may not be written cannot be checked", hint=hint) from error
            yield f"the index {table} does not fit the text it is of: {error.orig}"


def _of_rows(connection: Connection) -> Iterator[str]:
    """Rows that cannot be read, and rows that refer to nothing, by asking for all of them."""
    for table in metadata.sorted_tables:
        try:
            with connection.begin_nested():
                for _ in connection.execute(select(table).execution_options(yield_per=1000)):
                    pass
        except DBAPIError as error:
            yield f"the table {table.name} cannot be read: {str(error.orig).splitlines()[0]}"
            continue
        for number, parent in _orphans(connection, table):
            yield f"{number:,} rows of {table.name} refer to rows of {parent} that are not there"


def _orphans(connection: Connection, table: Table) -> Iterator[tuple[int, str]]:
    for key in table.foreign_keys:
        parent = key.column.table.alias("parent")
        here, there = key.parent, parent.c[key.column.name]
        lone = select(func.count()).select_from(table.outerjoin(parent, here == there))
        number = connection.scalar(lone.where(and_(here.is_not(None), there.is_(None))))
        if number:
            yield number, key.column.table.name


def _of_postgresql_indexes(connection: Connection) -> Iterator[str]:
    """Indexes that a broken-off change has left unusable."""
    names = connection.exec_driver_sql(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE NOT (i.indisvalid AND i.indisready) AND c.relnamespace = current_schema()::regnamespace"
    )
    yield from (f"the index {name} is not valid: REINDEX INDEX {name} makes it anew" for (name,) in names)


def _of_meaning(connection: Connection) -> Iterator[str]:
    for table, what in ((record, "record"), (search_text, "text to be searched by")):
        lone = select(func.count()).select_from(content.outerjoin(table, table.c.content_id == content.c.id))
        number = connection.scalar(lone.where(table.c.content_id.is_(None)))
        if number:
            yield f"{number:,} contents have no {what}"
    if number := connection.scalar(select(func.count()).select_from(artifacts.malformed().subquery())):
        yield f"{number:,} records have of their own what belongs to their artifacts"
