"""Rows by the hundred, past what SQLAlchemy does for each of them: a first sync writes seven for every file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, func, select

T = TypeVar("T")

_VALUES = 500
"""Values in one ``IN (...)``, below every database's bound on parameters."""

_TOGETHER = 300
"""Rows of three columns in one statement: SQLite before 3.32 takes 999 values (sqlite.org/limits.html)."""


def insert_many(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    stored: Collection[str] = (),
    together: bool = False,
) -> None:
    """Insert *rows*, which have the same columns, into *table*; those named in *stored* are as the database has them.

    *together*: by few statements of many rows. SQLite's full-text indexes write out what they have gathered before each
    statement that fires a trigger, so that single rows cost five times as much.
    """
    if not rows:
        return
    names = list(rows[0])
    columns: list[Sequence[Any]] = []
    for name in names:
        kind = table.c[name].type.dialect_impl(connection.dialect)
        process = None if name in stored else kind.bind_processor(connection.dialect)
        column = [row[name] for row in rows]
        if process is not None:
            bound = {value: process(value) for value in set(column)}  # most are the same in hundreds of rows
            column = [bound[value] for value in column]
        columns.append(column)
    quote = connection.dialect.identifier_preparer.quote
    listed = ", ".join(quote(table.c[name].name) for name in names)
    into = f"INSERT INTO {quote(table.name)} ({listed}) VALUES "  # noqa: S608 (names of ours)
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * len(names))})"
    values = list(zip(*columns, strict=True))
    if not together:
        connection.exec_driver_sql(into + row, values)
        return
    for start in range(0, len(values), _TOGETHER):
        some = values[start : start + _TOGETHER]
        connection.exec_driver_sql(into + ", ".join([row] * len(some)), tuple(chain.from_iterable(some)))


def new_ids(connection: Connection, table: Table, number: int) -> list[int]:
    """Ids for *number* new rows of *table*, in the order in which they are to be inserted in this transaction."""
    if connection.dialect.name == "postgresql":
        drawn = func.nextval(func.pg_get_serial_sequence(table.name, "id"))
        return list(connection.scalars(select(drawn).select_from(func.generate_series(1, number))))
    highest = connection.scalar(select(func.max(table.c.id))) or 0
    return list(range(highest + 1, highest + 1 + number))


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """*values* in lists that are short enough for one ``IN (...)``."""
    waiting = iter(values)
    while chunk := list(islice(waiting, _VALUES)):
        yield chunk
