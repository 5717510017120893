"""Opening a catalog: made, migrated, refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from modelhub.db import Catalog, Query
from modelhub.db.engine import parse_url
from modelhub.db.schema import REVISION, VERSION_TABLE, metadata
from modelhub.db.upgrade import MIGRATIONS
from modelhub.errors import CatalogError, CatalogLocked, SchemaTooNew
from tests.db.conftest import Shelf

ONLY_SQLITE = ("search_about", "search_words", "location_by_path")
"""The full-text indexes over ``search_text`` with the tables that SQLite's keep themselves in, and one over paths."""


def refusal(url: str) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        Catalog.open(url)
    assert "\n" not in str(caught.value)
    return caught.value


def test_empty_becomes_a_catalog(database: Path) -> None:
    """A path where nothing is gets its folder and a catalog with the newest schema, and lists nothing."""
    with Catalog.open(str(database)) as catalog:
        assert catalog.entries() == []
        assert catalog.url == f"sqlite:///{database}"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [(REVISION,)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA page_size").fetchone() == (16_384,)


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_migrations_make_the_schema(nowhere: Callable[[], str]) -> None:
    """The tables that the migrations make are those that the code reads and writes, to the last index and type."""
    url = nowhere()
    Catalog.open(url).close()
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        options = {
            "compare_type": True,
            "version_table": VERSION_TABLE,
            "include_name": lambda name, _kind, _: name is None or not name.startswith(ONLY_SQLITE),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    engine.dispose()


def test_revision_is_head() -> None:
    """The revision at which opening stops looking is the newest migration's."""
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_up_to_date_loads_no_alembic(database: Path) -> None:
    """Opening a catalog that needs no migration does not pay for loading alembic."""
    Catalog.open(str(database)).close()
    code = (
        "import sys; from modelhub.db import Catalog; catalog = Catalog.open(sys.argv[1]); "
        "print(len(catalog.entries()), 'alembic' in sys.modules); catalog.close()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(database)], capture_output=True, text=True, check=True)
    assert done.stdout == "0 False\n"


def test_kept_between_openings(database: Path) -> None:
    """What was recorded is there when the catalog is opened again, by path as by URL."""
    with Catalog.open(str(database)) as catalog:
        entry = Shelf(catalog).put("/m/a.safetensors")
    with Catalog.open(f"sqlite:///{database}") as catalog:
        assert catalog.entries() == [entry]


def test_default_is_in_the_user_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL the catalog is catalog.db in the folder for the user's data."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_args: str(tmp_path / "data" / "modelhub"))
    with Catalog.open() as catalog:
        assert catalog.entries() == []
    assert (tmp_path / "data" / "modelhub" / "catalog.db").is_file()


def test_a_folder_with_percent_signs_and_spaces(tmp_path: Path) -> None:
    """The catalog's own path may hold characters that mean something in URLs and in configuration files."""
    path = tmp_path / "50% of ?mine#1" / "catalog.db"
    with Catalog.open(str(path)) as catalog:
        assert catalog.entries() == []
    assert path.is_file()


def test_newer_schema_is_refused(database: Path) -> None:
    """A catalog of a later version is left alone, and the error says to upgrade."""
    Catalog.open(str(database)).close()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    error = refusal(str(database))
    assert isinstance(error, SchemaTooNew)
    assert "9999" in str(error)
    assert error.hint is not None


def test_database_of_something_else_is_refused(tmp_path: Path) -> None:
    """A database that holds other tables is not made a catalog."""
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (text)")
    before = path.read_bytes()
    assert str(path) in str(refusal(str(path)))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, but longer than a header\n" * 100, b"short"])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is refused and kept as it is."""
    path = tmp_path / "model.db"
    path.write_bytes(content)
    assert "not an SQLite database" in str(refusal(str(path)))
    assert path.read_bytes() == content


def test_damaged_catalog_is_one_sentence(database: Path, tmp_path: Path) -> None:
    """Pages overwritten with rubbish give a catalog error when they are read, whichever pages they are."""
    with Catalog.open(str(database)) as catalog:
        for number in range(6):
            Shelf(catalog).put(f"/m/{number}.safetensors", metadata={"notes": "x" * 5000})
    whole = database.read_bytes()
    page = 4096
    errors = 0
    for start in range(page, len(whole), page * 5):
        damaged = tmp_path / f"damaged-{start}.db"
        damaged.write_bytes(whole[:start] + b"\xa5" * page + whole[start + page :])
        try:
            with Catalog.open(str(damaged)) as catalog:
                for entry in catalog.entries():
                    catalog.show(entry.digest)
        except CatalogError as error:
            errors += 1
            assert str(damaged) in str(error)
            assert "\n" not in str(error)
    assert errors > 3


def test_folder_is_no_catalog(tmp_path: Path) -> None:
    """A folder named like a catalog is refused in words."""
    path = tmp_path / "folder.db"
    path.mkdir()
    assert "this is a folder" in str(refusal(str(path)))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A catalog below a regular file cannot be made."""
    (tmp_path / "file").write_bytes(b"")
    assert "folder cannot be made" in str(refusal(str(tmp_path / "file" / "catalog.db")))


def test_read_only_catalog_lists_and_refuses_to_write(database: Path) -> None:
    """A catalog that may not be written can be read; writing to it says so in one sentence."""
    with Catalog.open(str(database)) as catalog:
        entry = Shelf(catalog).put("/m/a.safetensors")
    with Catalog.open(f"sqlite:///file:{database}?mode=ro&uri=true") as catalog:
        assert catalog.entries() == [entry]
        with pytest.raises(CatalogError, match="may not be written"):
            catalog.tag("a", ["tag"])


def test_a_catalog_in_a_folder_that_may_not_be_written(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written beside it, as on a read-only disk, a catalog is read and copied; what would write
    to it says so in one sentence, and nothing is said of what cannot be checked."""
    folder = tmp_path / "a %20?#b"
    folder.mkdir()
    with Catalog.open(str(database)) as catalog:
        entry = Shelf(catalog).put("/m/a.safetensors")
    shutil.copy(database, folder / "c.db")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and may(path, mode))
    with Catalog.open(str(folder / "c.db")) as catalog:
        assert catalog.entries() == [entry]
        assert [each.id for each in catalog.entries(Query(text="safetensors"))] == [entry.id]
        for change in (lambda: catalog.tag("a", ["tag"]), catalog.upkeep.faults):
            with pytest.raises(CatalogError, match="may not be written"):
                change()
        catalog.upkeep.back_up(str(tmp_path / "copy.db"))
    assert os.listdir(folder) == ["c.db"]
    with Catalog.open(str(tmp_path / "copy.db")) as copy:
        assert copy.upkeep.faults() == []


@pytest.mark.parametrize(
    "url",
    [
        "catalog",
        "nosuchdatabase://host/name",
        "postgresql+nosuchdriver://host/name",
        "sqlite:///catalog.db?timeout=soon",
        "://",
        "",
    ],
)
def test_unusable_url_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither a path nor a URL of an installed driver is refused, and no file is made for it."""
    monkeypatch.chdir(tmp_path)
    refusal(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timeout", ["inf", "-1", "1e300", "0"])
def test_extreme_timeouts(database: Path, timeout: str) -> None:
    """A time-out that no clock can count is the nearest that one can."""
    with Catalog.open(f"sqlite:///{database}?timeout={timeout}") as catalog:
        assert catalog.entries() == []


def test_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL whose driver is not installed names the package to install, and not the password."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    error = refusal("postgresql+psycopg2://me:secret@host/name")
    assert "psycopg2" in str(error.hint)
    assert "secret" not in str(error)


def test_locked_catalog(database: Path) -> None:
    """A catalog that another process keeps writing to gives CatalogLocked after the time-out, and can be read."""
    with Catalog.open(str(database)) as catalog:
        entry = Shelf(catalog).put("/m/a.safetensors")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Catalog.open(f"sqlite:///{database}?timeout=0.05") as catalog:
            assert catalog.entries() == [entry]
            with pytest.raises(CatalogLocked):
                catalog.tag("a", ["tag"])
        other.execute("ROLLBACK")
    with Catalog.open(f"sqlite:///{database}?timeout=0.05") as catalog:
        assert catalog.tag("a", ["tag"]).tags == ("tag",)


def test_lock_on_a_catalog_not_yet_made(database: Path) -> None:
    """Making a catalog gives up in the same words when another process holds the file."""
    database.parent.mkdir()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CatalogLocked):
            Catalog.open(f"sqlite:///{database}?timeout=0.05")


def test_failed_migration_leaves_nothing(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that breaks off half way is undone, so that the next opening starts from the same place."""
    broken = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, broken)
    first = broken / "versions" / "v0001_catalog.py"
    first.write_text(first.read_text() + "    raise RuntimeError('power cut')\n")
    monkeypatch.setattr("modelhub.db.upgrade.MIGRATIONS", str(broken))
    with pytest.raises(RuntimeError, match="power cut"):
        Catalog.open(str(database))
    monkeypatch.undo()
    with Catalog.open(str(database)) as catalog:
        assert catalog.entries() == []
