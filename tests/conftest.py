"""Databases for catalogs: a file, and, where a PostgreSQL server is installed, a database of a server of the tests'.

Migrations make the first SQLite catalog of a session; those that tests open in its process are made as that one turned
out to be, in a twentieth of the time. Hypothesis sets no test a time: a busy machine is no fault of the code. Ctrl-C
and a terminal's end are heard, also where the tests are run in the background and have inherited that they are not.
Small arrays are computed in one thread, in the processes that tests start as well: beside other tests, threads that
wait for each other take more than they save, half of a processor's time.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Connection, inspect

from modelhub.db import Catalog, upgrade
from modelhub.db.engine import Store
from tests.postgresql import Server, programs, running

for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), usual)

settings.register_profile("modelhub", deadline=None)
settings.load_profile("modelhub")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numpy are imported, which heed it

gc.disable()


def pytest_collection_finish() -> None:
    """Garbage is not looked for among libraries and thousands of collected tests, which stay: again and again, that
    would take half the time of collecting and a sixth of the tests'."""
    gc.freeze()
    gc.enable()


needs_server = pytest.mark.postgres if programs() else pytest.mark.skip(reason="no PostgreSQL server is installed")
BACKENDS = ["sqlite", *([pytest.param("postgresql", marks=pytest.mark.postgres)] if programs() else [])]
"""Where a test that asks for one of the fixtures below runs; ``-m postgres`` runs only those on the server."""


@pytest.fixture(scope="session", autouse=True)
def _made_as_the_first() -> Iterator[None]:
    migrate, migrations = upgrade._migrate, upgrade.MIGRATIONS
    made: list[str] = []

    def make(connection: Connection, store: Store) -> None:
        is_new = store.is_sqlite and not inspect(connection).get_table_names()
        if not is_new or migrations != upgrade.MIGRATIONS:
            migrate(connection, store)
        elif made:
            for statement in made:
                connection.exec_driver_sql(statement)
        else:
            migrate(connection, store)
            made.extend(_statements(connection))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upgrade, "_migrate", make)
        yield


def _statements(connection: Connection) -> Iterator[str]:
    """What makes the tables of *connection*, and the one row that a new catalog has: its revision."""
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rootpage = 0")
    found = rows.all()
    virtual = [name for name, sql in found if sql.startswith("CREATE VIRTUAL TABLE")]
    for name, sql in found:
        is_table = sql.startswith("CREATE TABLE")
        if is_table and any(name.startswith(f"{each}_") for each in virtual):
            continue  # SQLite makes them itself
        yield sql
        if is_table:
            for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"'):
                yield f'INSERT INTO "{name}" VALUES ({", ".join(map(repr, row))})'


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@contextmanager
def _catalog(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        url = server.catalog()
        yield url
        server.drop(url)
    else:
        yield str(folder / "catalog.db")


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the test's catalog is or, in a file, comes to be."""
    with _catalog(request, tmp_path / "folder") as url:
        yield url


@pytest.fixture(scope="module", params=BACKENDS)
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the one catalog is that tests of a module share, all of which leave it as it was."""
    with _catalog(request, tmp_path_factory.mktemp("shared")) as url:
        yield url


@pytest.fixture(params=BACKENDS)
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives URLs at which nothing is yet, each another."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        return server.empty
    numbers = iter(range(1000))
    return lambda: str(tmp_path / f"{next(numbers)}.db")


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog.open(url) as opened:
        yield opened


class Files:
    """Catalogs that are files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0

    def empty(self) -> str:
        self.number += 1
        return str(self.folder / f"{self.number}.db")

    def catalog(self) -> str:
        return self.empty()

    def copy(self, url: str) -> str:
        return shutil.copy(url, self.empty())

    def drop(self, url: str) -> None:
        for path in self.folder.glob(f"{Path(url).name}*"):
            path.unlink()


@pytest.fixture(params=BACKENDS)
def catalogs(request: pytest.FixtureRequest, tmp_path: Path) -> Files | Server:
    """Makes, copies and drops catalogs."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        return server
    return Files(tmp_path)
