"""A PostgreSQL server of the tests' own: in memory where it can be, reached by a socket there, and gone after."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import glob
from importlib.util import find_spec
from itertools import count
from typing import Any

from modelhub.db.schema import VERSION_TABLE
from modelhub.db.upgrade import OLDEST_POSTGRESQL

_OWNER = "postgres"
"""Whose processes they are when the tests run as root, as whom the server refuses to run."""
_SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=50")


@cache
def programs() -> str | None:
    """The folder of the newest server's programs; ``None`` where no server, or no driver for it, is installed."""
    found = shutil.which("initdb")
    folders = [os.path.dirname(found)] if found else glob("/usr/lib/postgresql/*/bin")
    versions = {_version(folder): folder for folder in folders if os.path.exists(os.path.join(folder, "postgres"))}
    newest = max(versions, default=0)
    if newest < OLDEST_POSTGRESQL or find_spec("psycopg") is None or (os.geteuid() == 0 and not _has_owner()):
        return None
    return versions[newest]


def _version(folder: str) -> int:
    said = subprocess.run([os.path.join(folder, "postgres"), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r" (\d+)", said.stdout)
    return int(found[1]) if found else 0


def _has_owner() -> bool:
    return any(each.pw_name == _OWNER for each in pwd.getpwall())


_ROOM = 4 << 30
_LOOK = f"""
SELECT (SELECT version_num FROM {VERSION_TABLE}),
  array_agg((relname, relkind, relnatts, relchecks)::text ORDER BY relname)
FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""
_LEAVE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> %s"
_RESTART = "SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"
_SIZE = "SELECT pg_database_size(current_database())"
_GROWN = 4 << 20
"""Bytes by which a catalog may have grown and still be emptied: what is deleted is in the way for a while."""


class Server:
    """A running server.

    To copy an empty catalog and to drop it takes 0.15 s, to delete its rows a tenth of that: one that is dropped with
    the tables that it was made with is emptied and handed out again, its numbers starting at 1 as before.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = count()
        self._template: str | None = None
        self._made: tuple[Any, ...] = ()
        self._catalogs: set[str] = set()
        self._emptied: list[str] = []

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://tests@/{database}?host={self._folder}"

    def _connection(self, database: str = "postgres") -> Any:
        import psycopg

        return psycopg.connect(f"host={self._folder} user=tests dbname={database}", autocommit=True)

    def empty(self, options: str = "") -> str:
        """The URL of a database with nothing in it, made with the *options* of CREATE DATABASE."""
        name = f"catalog_{next(self._numbers)}"
        with self._connection() as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return self._url(name)

    def drop(self, url: str) -> None:
        """Be rid of what is in the database at *url*, and of its megabytes of disk where it is not used again."""
        import psycopg

        if url in self._catalogs:
            with suppress(psycopg.Error):
                if self._has_emptied(url):
                    self._emptied.append(url)
                    return
        with self._connection() as connection:
            connection.execute(f"DROP DATABASE {_name(url)} WITH (FORCE)")

    def catalog(self) -> str:
        """The URL of an empty catalog: a copy, or one that was emptied, in a fraction of the time of migrations."""
        from modelhub.db import Catalog

        if self._template is None:
            url = self.empty()
            Catalog.open(url).close()
            with self._connection(_name(url)) as connection:
                self._made = self._look(connection)
            self._template = url
        if self._emptied:
            return self._emptied.pop()
        url = self.copy(self._template)
        self._catalogs.add(url)
        return url

    def copy(self, url: str) -> str:
        """The URL of a copy of the database at *url*, to which nobody may be connected."""
        return self.empty(f"TEMPLATE {_name(url)}")

    def _look(self, connection: Any) -> tuple[Any, ...]:
        """The revision of the catalog, its tables and what else has a name in it, and its bytes."""
        return (*connection.execute(_LOOK).fetchone(), *connection.execute(_SIZE).fetchone())

    def _has_emptied(self, url: str) -> bool:
        """Delete every row of the catalog at *url*; ``False`` where it is not to be used again."""
        with self._connection(_name(url)) as connection:
            connection.execute(_LEAVE)
            *shape, size = self._look(connection)
            if shape != list(self._made[:-1]) or size > self._made[-1] + _GROWN:
                return False
            deletions = [f"DELETE FROM {name}" for (name,) in connection.execute(_TABLES, [VERSION_TABLE])]
            in_any_order = "SET session_replication_role = replica"  # whatever refers to what
            connection.execute("; ".join([in_any_order, *deletions, _RESTART]))
        return True


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _place() -> str:
    """Where the server lies, by a short name for its socket's sake: in memory where there is room, as nothing lasts."""
    memory = "/dev/shm"
    return memory if os.path.isdir(memory) and shutil.disk_usage(memory).free > _ROOM else "/tmp"


@contextmanager
def running() -> Iterator[Server]:
    """A server that runs until the context is left."""
    bin_folder = programs()
    assert bin_folder is not None
    owner = {"user": _OWNER, "group": _OWNER, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = tempfile.mkdtemp(prefix="modelhub-pg-", dir=_place())
    try:
        if owner:
            shutil.chown(folder, _OWNER, _OWNER)
        data, log = os.path.join(folder, "data"), os.path.join(folder, "log")

        def run(program: str, *arguments: str) -> None:
            command = [os.path.join(bin_folder, program), *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **owner)

        run("initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        options = " ".join(f"-c {setting}" for setting in _SETTINGS)
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", f"-k {folder} {options}", "start")
        try:
            yield Server(folder)
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
