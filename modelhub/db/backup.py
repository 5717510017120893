"""Copies of an SQLite catalog, whole and consistent while others use it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from urllib.parse import quote

from sqlalchemy import Connection

from modelhub.db.engine import is_as_it_stands
from modelhub.errors import CatalogError


def file_of(connection: Connection) -> str | None:
    """The path of the file that *connection* reads; ``None`` for a database in memory."""
    return connection.exec_driver_sql("SELECT file FROM pragma_database_list WHERE name = 'main'").scalar() or None


def back_up(connection: Connection, target: str, label: str) -> None:
    """Copy the catalog of *connection*, as it was last committed, to the file *target*, replacing it.

    The copy appears whole or not at all. Raises :class:`CatalogError`.
    """
    path = file_of(connection)
    if path is None:
        raise CatalogError(f"{label}: a catalog in memory cannot be copied")
    flags = "mode=ro&immutable=1" if is_as_it_stands(path) else "mode=ro"
    partial = f"{target}.{os.urandom(4).hex()}.partial"
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(path)}?{flags}", uri=True)) as source,
            closing(sqlite3.connect(partial)) as copy,
        ):
            source.backup(copy)
        _sync(partial)
        os.replace(partial, target)
    except (sqlite3.Error, OSError) as error:
        raise CatalogError(f"{label}: no copy of the catalog could be made at {target}: {error}") from error
    finally:
        with suppress(OSError):
            os.unlink(partial)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
