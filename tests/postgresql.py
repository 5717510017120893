"""A PostgreSQL server of the tests' own: made in a temporary folder, reached through a socket there, and gone after."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from glob import glob
from importlib.util import find_spec
from itertools import count

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


class Server:
    """A running server."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = count()
        self._template: str | None = None

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://tests@/{database}?host={self._folder}"

    def empty(self, options: str = "") -> str:
        """The URL of a database with nothing in it, made with the *options* of CREATE DATABASE."""
        import psycopg

        name = f"catalog_{next(self._numbers)}"
        with psycopg.connect(f"host={self._folder} user=tests dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}".encode())
        return self._url(name)

    def drop(self, url: str) -> None:
        """Be rid of the database at *url*, which takes some megabytes of disk."""
        import psycopg

        name = _name(url)
        with psycopg.connect(f"host={self._folder} user=tests dbname=postgres", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def catalog(self) -> str:
        """The URL of an empty catalog: a copy, which takes a fraction of the time that migrations take."""
        from modelhub.db import Catalog

        if self._template is None:
            url = self.empty()
            Catalog.open(url).close()
            self._template = url
        return self.copy(self._template)

    def copy(self, url: str) -> str:
        """The URL of a copy of the database at *url*, to which nobody may be connected."""
        return self.empty(f"TEMPLATE {_name(url)}")


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


@contextmanager
def running() -> Iterator[Server]:
    """A server that runs until the context is left."""
    bin_folder = programs()
    assert bin_folder is not None
    owner = {"user": _OWNER, "group": _OWNER, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = tempfile.mkdtemp(prefix="modelhub-pg-", dir="/tmp")
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
