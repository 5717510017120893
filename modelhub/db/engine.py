"""The database behind a catalog: opening it, one transaction at a time, and its errors in our words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import platformdirs
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from modelhub.errors import CatalogError, CatalogLocked

LOCK_TIMEOUT = 30.0
"""Seconds to wait for another process's write; ``?timeout=5`` at the end of a URL sets another time."""

_LONGEST_TIMEOUT = 86_400.0  # sqlite3 counts milliseconds in 32 bits
_CACHE = 16_384
"""Kibibytes of an SQLite catalog that are kept at hand: the ends of all indexes of a hundred thousand files."""
_PAGE = 16_384
"""Bytes of a page of an SQLite catalog that is made anew (sqlite.org/pragma.html#pragma_page_size). What a header says,
and the words in it, are some kilobytes each, and lie in chains of pages where these are smaller: a sync writes with a
tenth less of the processor than with the 4,096 that SQLite takes by itself, and searches take the same."""
_LOG = 16_000_000
"""Bytes in the write-ahead log before its pages are moved into the database: a page that each batch of a sync changes
is moved once in several batches."""
_CONNECTING = 10  # seconds until a PostgreSQL server that does not answer is given up; libpq would take minutes
_SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_WRITERS_QUEUE = 0x6D6F64656C687562
"""The PostgreSQL advisory lock that makes writers wait for one another: ``modelhub`` in ASCII."""

T = TypeVar("T")


def default_url() -> URL:
    """The catalog in the user's data folder."""
    return URL.create("sqlite", database=os.path.join(platformdirs.user_data_dir("modelhub", False), "catalog.db"))


def parse_url(text: str | None) -> URL:
    """*text* as a database URL; ``None`` is the default catalog, a path ending in .db, .sqlite or .sqlite3 that file.

    Raises :class:`CatalogError` for anything else.
    """
    if text is None:
        return default_url()
    if "://" not in text and text.lower().endswith(_SQLITE_SUFFIXES):
        return URL.create("sqlite", database=os.path.expanduser(text))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise CatalogError(
            f"{text}: neither a database URL nor a path ending in .db or .sqlite",
            hint="name a file such as catalog.db, or a URL such as sqlite:////home/me/catalog.db",
        ) from error
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgres", "postgresql") else url


class Store:
    """One database: runs a function of a connection inside a transaction, for reading or for writing.

    Writers take turns, so that what a write reads cannot change before it commits: SQLite's write lock is taken when
    the transaction begins, not at its first write (which would fail at once when another process was faster), and
    PostgreSQL's writers queue at an advisory lock. Safe to use from several threads.
    """

    def __init__(self, url: URL) -> None:
        self.url = url.render_as_string(hide_password=True)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.is_postgresql = url.get_backend_name() == "postgresql"
        self.label = (url.database or ":memory:") if self.is_sqlite else self.url
        self._timeout = _timeout_of(url)
        if self.is_sqlite:
            _make_folder(url)
            url = _to_be_read(url)
        self._engine = self._create(url)

    def read(self, work: Callable[[Connection], T]) -> T:
        """What *work* returns; it sees the catalog at one moment."""
        return self._run(work, immediate=False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """What *work* returns, committed; nothing is kept of it when it raises."""
        return self._run(work, immediate=True)

    def migrate(self, work: Callable[[Connection], T]) -> T:
        """:meth:`write` for work that makes tables anew: references are checked when all of it is done.

        SQLite would otherwise take the rows that refer to a table for orphans when its old form is dropped, and it
        can be told so only between transactions (sqlite.org/lang_altertable.html, section 7).
        """
        if not self.is_sqlite:
            return self.write(work)

        def checked(connection: Connection) -> T:
            result = work(connection)
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise CatalogError(
                    f"{self.label}: the catalog is damaged: rows of it refer to others that are not there"
                )
            return result

        try:
            with self._engine.connect() as connection:
                _enforce_references(connection, False)
                try:
                    connection.execution_options(immediate=True)
                    with connection.begin():
                        return checked(connection)
                finally:
                    _enforce_references(connection, True)
        except SQLAlchemyError as error:
            raise translated(error, self.label) from error

    def use_write_ahead_log(self) -> None:
        """Let readers read while another process writes; the file remembers it.

        The switch itself does not wait for other processes by SQLite's own means, so it is tried again until the
        time-out. File systems that cannot share memory stay as they are.
        """
        if not self.is_sqlite:
            return
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                with self._engine.connect() as connection:
                    connection.connection.cursor().execute("PRAGMA journal_mode=WAL")  # not inside a transaction
                return
            except (DBAPIError, sqlite3.Error) as error:
                fault = translated(error, self.label)
                if not isinstance(fault, CatalogLocked) or time.monotonic() > deadline:
                    raise fault from error
            time.sleep(0.02)

    def close(self) -> None:
        self._engine.dispose()

    def _run(self, work: Callable[[Connection], T], *, immediate: bool) -> T:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(immediate=immediate)
                with connection.begin():
                    return work(connection)
        except SQLAlchemyError as error:
            raise translated(error, self.label) from error

    def _create(self, url: URL) -> Engine:
        options: dict[str, Any] = {}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": self._timeout}
        elif self.is_postgresql:
            url = url.difference_update_query(["timeout"])
            if "connect_timeout" not in url.query:
                options["connect_args"] = {"connect_timeout": _CONNECTING}
            options["pool_pre_ping"] = True  # a server may be started anew while a catalog is open
        try:
            engine = create_engine(url, **options)
        except ImportError as error:
            name = error.name or url.get_driver_name()
            package = "'modelhub[postgres]'" if name == "psycopg" else f"the package that provides {name}"
            raise CatalogError(
                f"{self.label}: the database driver {name} is not installed", hint=f"install {package}"
            ) from error
        except NoSuchModuleError as error:
            raise CatalogError(f"{self.label}: there is no database driver {url.drivername}") from error
        except (SQLAlchemyError, ValueError, TypeError) as error:
            raise CatalogError(f"{self.label}: not a usable database URL: {_first_line(error)}") from error
        if self.is_sqlite:
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        elif self.is_postgresql:
            event.listen(engine, "begin", partial(_begin_postgresql, timeout=self._timeout))
        return engine


def _timeout_of(url: URL) -> float:
    given = url.query.get("timeout", LOCK_TIMEOUT)
    try:
        return min(max(0.0, float(given)), _LONGEST_TIMEOUT)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise CatalogError(f"{url.database}: timeout is not a number of seconds: {given}") from error


def _make_folder(url: URL) -> None:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:"):
        return
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise CatalogError(f"{path}: its folder cannot be made: {error.strerror or error}") from error


def is_as_it_stands(path: str) -> bool:
    """Whether the SQLite file *path* is complete, and nothing can be written beside it: a snapshot, a read-only disk.

    A reader, too, writes: the index of the write-ahead log, which all who use the catalog share. Where there is neither
    the one nor the other, and no place for them, SQLite reads the file if it is said to be immutable
    (sqlite.org/wal.html#read_only_databases).
    """
    path = os.path.abspath(path)
    is_closed = os.path.isfile(path) and not any(map(os.path.exists, (f"{path}-shm", f"{path}-wal")))
    return is_closed and not os.access(os.path.dirname(path), os.W_OK)


def _to_be_read(url: URL) -> URL:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:") or not is_as_it_stands(path):
        return url
    flags = {"mode": "ro", "immutable": "1", "uri": "true"}
    return url.set(database=f"file:{quote(os.path.abspath(path))}").update_query_dict(flags)


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where sqlite3 guesses
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{_CACHE}")
    connection.execute(f"PRAGMA page_size={_PAGE}")  # of no effect where there is a database already
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA wal_autocheckpoint={_LOG // page}")


def _enforce_references(connection: Connection, wanted: bool) -> None:
    connection.connection.cursor().execute(f"PRAGMA foreign_keys={'ON' if wanted else 'OFF'}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _begin_postgresql(connection: Connection, *, timeout: float) -> None:
    if connection.get_execution_options().get("immediate"):
        # Each statement sees what was committed before it, and nobody commits while the lock is held.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, int(timeout * 1000))}")  # 0 would be for ever
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS_QUEUE})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


_SQLITE_SENTENCES = {
    sqlite3.SQLITE_NOTADB: "not a catalog: the file is not an SQLite database",
    sqlite3.SQLITE_CORRUPT: "the catalog is damaged",
    sqlite3.SQLITE_READONLY: "the catalog or its folder may not be written",
    sqlite3.SQLITE_PERM: "the catalog may not be opened",
    sqlite3.SQLITE_CANTOPEN: "the catalog cannot be opened",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "reading or writing the catalog failed: its disk may be full",
    sqlite3.SQLITE_TOOBIG: "a text is longer than the database can hold",
}
_POSTGRESQL_SENTENCES = {
    "25006": "the catalog may not be written",  # read_only_sql_transaction
    "42501": "this user may not do that in the database",  # insufficient_privilege
    "53100": "the disk is full",  # disk_full
    "XX001": "the catalog is damaged",  # data_corrupted
    "XX002": "the catalog is damaged",  # index_corrupted
}
_LOCKED_IN_POSTGRESQL = "55P03"  # lock_not_available (postgresql.org/docs/15/errcodes-appendix.html)


def translated(error: Exception, label: str) -> CatalogError:
    """The database's *error* as one of ours, its sentence beginning with *label*."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    code = (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF  # without the extended part
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or state == _LOCKED_IN_POSTGRESQL:
        return CatalogLocked(f"{label}: another process is writing to the catalog")
    if code == sqlite3.SQLITE_CANTOPEN and os.path.isdir(label):
        return CatalogError(f"{label}: a catalog is a file, but this is a folder")
    if state in _POSTGRESQL_SENTENCES:
        return CatalogError(f"{label}: {_POSTGRESQL_SENTENCES[state]}: {_first_line(original)}")
    if code in _SQLITE_SENTENCES:
        return CatalogError(f"{label}: {_SQLITE_SENTENCES[code]}", hint=_HINTS.get(code))
    return CatalogError(f"{label}: the database could not answer: {_first_line(original)}")


_HINTS = {
    sqlite3.SQLITE_NOTADB: "name another file with --catalog",
    sqlite3.SQLITE_CORRUPT: "the model files are not affected: move the catalog away and run intake again, "
    "or put back a copy of it",
}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
