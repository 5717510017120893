"""Looking after the catalog: copies and checks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modelhub.db import Catalog
from modelhub.errors import CatalogError
from tests.cli.run import modelhub
from tests.db.conftest import Shelf


@pytest.fixture
def shelf(database: Path) -> Iterator[Shelf]:
    with Catalog.open(str(database)) as catalog:
        yield Shelf(catalog)


def test_a_copy_is_a_catalog(shelf: Shelf, tmp_path: Path) -> None:
    """A copy made while the catalog is open, and while another process writes, holds everything committed."""
    entry = shelf.put("/m/a.safetensors")
    database = shelf.catalog.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE record SET notes = 'not committed'")
        shelf.catalog.upkeep.back_up(str(tmp_path / "copy.db"))
        other.execute("ROLLBACK")
    with Catalog.open(str(tmp_path / "copy.db")) as copy:
        assert copy.entries() == [entry]
        assert copy.show("a").notes == ""
        assert copy.upkeep.faults() == []


def test_nothing_is_replaced(shelf: Shelf, tmp_path: Path) -> None:
    """A target that exists is left as it is, and no piece of a copy stays when there can be none."""
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"a model")
    with pytest.raises(CatalogError, match="exists already"):
        shelf.catalog.upkeep.back_up(str(target))
    assert target.read_bytes() == b"a model"
    with pytest.raises(CatalogError):
        shelf.catalog.upkeep.back_up(str(tmp_path / "none" / "copy.db"))
    with Catalog.open("sqlite://") as memory, pytest.raises(CatalogError, match="in memory"):
        memory.upkeep.back_up(str(tmp_path / "copy.db"))
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("INSERT INTO record_tag VALUES (99, 'nobody')", "refers to a row of record"),
        ("DELETE FROM search_about_data WHERE id > 10", "search_about"),
        ("INSERT INTO search_words (search_words) VALUES ('delete-all')", "search_words"),
    ],
)
def test_faults(database: Path, damage: str, said: str) -> None:
    """Rows that refer to nothing and indexes that do not fit the text are found and named."""
    with Catalog.open(str(database)) as catalog:
        Shelf(catalog).put("/m/a.safetensors", metadata={"author": "someone"})
        assert catalog.upkeep.faults() == []
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(damage)
    with Catalog.open(str(database)) as catalog:
        assert any(said in fault for fault in catalog.upkeep.faults())
    ran = modelhub("db", "check", "--catalog", str(database), "--format", "json")
    assert (ran.code, ran.json()["sound"]) == (1, False)


def test_commands(database: Path, tmp_path: Path) -> None:
    """``db check`` ends with 0 for a sound catalog, and ``db backup`` makes the file it names."""
    Catalog.open(str(database)).close()
    assert modelhub("db", "check", "--catalog", str(database)).code == 0
    assert modelhub("db", "backup", str(tmp_path / "copy.db"), "--catalog", str(database)).code == 0
    assert (tmp_path / "copy.db").is_file()
    assert modelhub("db", "backup", str(tmp_path / "copy.db"), "--catalog", str(database)).code == 2
