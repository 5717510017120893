"""From whatever a database holds to the schema of this version."""

from __future__ import annotations

import os

from sqlalchemy import Connection, column, inspect, select, table

from modelhub.db.backup import back_up, file_of
from modelhub.db.engine import Store
from modelhub.db.schema import REVISION, VERSION_TABLE
from modelhub.errors import CatalogError, SchemaTooNew

OLDEST_POSTGRESQL = 15
MIGRATIONS = os.path.join(os.path.dirname(__file__), "migrations")


def bring_up_to_date(store: Store) -> None:
    """Make or migrate the tables, in one transaction; a catalog that is up to date costs one query.

    An SQLite catalog with something in it is copied to ``<its path>.<its revision>.backup`` before it is migrated.
    Raises :class:`SchemaTooNew` for a catalog of a later version and :class:`CatalogError` for a database of something
    else, which is left as it is.
    """
    if store.read(lambda connection: _revision(connection, store.label)) == REVISION:
        return
    store.use_write_ahead_log()
    store.migrate(lambda connection: _migrate(connection, store))


def _revision(connection: Connection, label: str) -> str | None:
    """The catalog's revision, ``None`` for an empty database."""
    tables = inspect(connection)
    if tables.has_table(VERSION_TABLE):
        return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    if tables.get_table_names():
        raise CatalogError(
            f"{label}: the database holds something else than a catalog", hint="name another one with --catalog"
        )
    return None


def _refuse_what_cannot_hold_it(connection: Connection, label: str) -> None:
    version, encoding = connection.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')"
    ).one()
    if version < OLDEST_POSTGRESQL:
        raise CatalogError(f"{label}: PostgreSQL {version} is too old: a catalog needs {OLDEST_POSTGRESQL} or newer")
    if encoding != "UTF8":
        raise CatalogError(f"{label}: the database's encoding is {encoding}: a catalog needs UTF8")


def _migrate(connection: Connection, store: Store) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", MIGRATIONS.replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    revision = _revision(connection, store.label)  # again: another process may have migrated while this one waited
    if revision is not None and revision not in known:
        raise SchemaTooNew(f"{store.label}: the catalog was written by a newer modelhub (its schema is {revision})")
    if revision == REVISION:
        return
    if store.is_postgresql:
        _refuse_what_cannot_hold_it(connection, store.label)
    path = file_of(connection) if revision is not None and store.is_sqlite else None
    if path is not None:
        back_up(connection, f"{path}.{revision}.backup", store.label)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
