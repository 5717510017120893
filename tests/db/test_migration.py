"""A catalog of each earlier schema becomes one of this, and keeps what was in it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from modelhub.db import Catalog, Query
from modelhub.db.engine import Store, parse_url
from modelhub.db.schema import REVISION, VERSION_TABLE
from modelhub.db.upgrade import MIGRATIONS
from modelhub.errors import CatalogError
from tests.cli.run import ROOT

ROWS = """
INSERT INTO content VALUES (1, '{a}', 100, 'fp', '2026-01-01T00:00:00Z'), (2, '{b}', 200, NULL, '2026-01-02T00:00:00Z');
INSERT INTO location VALUES
  (1, 1, '/m/a.safetensors', 'key-a', FALSE, 100, '1', '7', '11', '2026-01-01T00:00:00Z', NULL),
  (2, 1, '/m/old.safetensors', NULL, FALSE, 100, '1', '7', '11', '2026-01-01T00:00:00Z', '2026-01-03T00:00:00Z'),
  (3, 2, '/m/b.ckpt', 'key-b', FALSE, 200, '1', '7', '12', '2026-01-02T00:00:00Z', NULL);
INSERT INTO record VALUES (1, 1, 'Alpha', 'a note', '2026-01-01T00:00:00Z'), (2, 2, 'b', '', '2026-01-02T00:00:00Z');
INSERT INTO record_tag VALUES (1, 'style');
INSERT INTO identification VALUES
  (1, 1, 'vae', NULL, NULL, NULL, NULL, 1, 2, '[]', 'null', '[]', '[]', 'v0', 'f0', '2026-01-01T00:00:00Z'),
  (2, 1, 'lora', 'sdxl', NULL, NULL, 'fp16', 3, 300, '["unet"]', 'null', '[]', '[]', 'v1', 'f1',
   '2026-01-01T00:00:00Z'),
  (3, 2, 'checkpoint', 'sd-1', 'inpaint', 'epsilon', 'fp32', 5, 6, '[]', 'null', '[]', '[]', 'v1', 'f2',
   '2026-01-02T00:00:00Z');
INSERT INTO scan_report VALUES
  (1, 1, 'unknown', 'safetensors', TRUE, '[]', 'p0', 'v0', 's0', '2026-01-01T00:00:00Z'),
  (2, 1, 'safe', 'safetensors', TRUE, '[]', 'p1', 'v1', 's1', '2026-01-01T00:00:00Z'),
  (3, 2, 'unsafe', 'torch-zip', TRUE, '[]', 'p1', 'v1', 's2', '2026-01-02T00:00:00Z');
INSERT INTO finding VALUES (1, 3, 'pickle.unsafe-import', 'critical', 'high', 'imports os.system', NULL, 3, NULL);
INSERT INTO metadata_entry VALUES (1, 1, 'author', 'someone'), (2, 1, 'ss_output_name', 'harbour'),
  (3, 1, 'modelspec.trigger_phrase', 'at dusk');
INSERT INTO search_text VALUES (1, 'alpha\n/m/a.safetensors\nstyle', 'author\nsomeone\nharbour'), (2, 'b', '');
INSERT INTO derivation VALUES (1, 'convert', '{a}', '{{}}', 'v1', 'd', '2026-01-01T00:00:00Z');
INSERT INTO derivation_input VALUES (1, 0, '{b}', 'source');
"""
A, B = "aa" * 32, "bb" * 32


def make_first_schema(url: str) -> None:
    """A catalog as the first schema has it, with something in every table."""
    from alembic import command
    from alembic.config import Config

    store = Store(parse_url(url))
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)

    def work(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in ROWS.format(a=A, b=B).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)

    store.use_write_ahead_log()
    store.write(work)
    store.close()


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0])


def check(catalog: Catalog) -> None:
    alpha = catalog.show("Alpha")
    assert (alpha.entry.kind, alpha.entry.architecture, alpha.entry.precision) == ("lora", "sdxl", "fp16")
    assert (alpha.entry.verdict, alpha.entry.container, alpha.entry.digest) == ("safe", "safetensors", A)
    assert (alpha.notes, alpha.entry.tags) == ("a note", ("style",))
    assert alpha.metadata == {
        "author": "someone",
        "ss_output_name": "harbour",
        "modelspec.trigger_phrase": "at dusk",
    }
    assert alpha.triggers == alpha.entry.triggers == ("at dusk",)
    assert [(place.path, place.state) for place in alpha.locations] == [
        ("/m/a.safetensors", "live"),
        ("/m/old.safetensors", "missing"),
    ]
    assert [scan.verdict for scan in alpha.scans] == ["safe", "unknown"]
    assert [parent.digest for parent in alpha.parents] == [B]
    b = catalog.show("b")
    assert (b.entry.verdict, b.entry.variant, b.findings[0].rule) == ("unsafe", "inpaint", "pickle.unsafe-import")
    for word, found in (("lph", ["Alpha"]), ("harbour", ["Alpha"]), ("style", ["Alpha"]), ("nothing", [])):
        assert [entry.name for entry in catalog.entries(Query(text=word))] == found


def test_from_the_first(nowhere: Callable[[], str]) -> None:
    """A catalog of the first schema keeps every record, place, tag, note, report and step, and can be searched."""
    url = nowhere()
    make_first_schema(url)
    with Catalog.open(url) as catalog:
        check(catalog)
        catalog.note("Alpha", "zebra")
        assert [entry.name for entry in catalog.entries(Query(text="ebra"))] == ["Alpha"]


def test_copied_before(database: Path) -> None:
    """What was there before is kept beside the catalog, as it was."""
    make_first_schema(str(database))
    Catalog.open(str(database)).close()
    copy = Path(f"{database}.0001.backup")
    assert revision(copy) == "0001"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM metadata_entry").fetchone() == (3,)


def test_no_copy_no_migration(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no copy can be made, nothing is migrated."""
    make_first_schema(str(database))

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CatalogError, match="No space left"):
        Catalog.open(str(database))
    assert revision(database) == "0001"
    assert [path.name for path in database.parent.iterdir() if "partial" in path.name] == []


def test_killed(database: Path) -> None:
    """kill -9 inside a migration leaves the catalog as it was, and the next opening migrates it."""
    make_first_schema(str(database))
    code = (
        "import os, signal, sys, alembic.op as op, modelhub.db as db\n"
        "op.drop_table = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "db.Catalog.open(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(database)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert revision(database) == "0001"
    with Catalog.open(str(database)) as catalog:
        check(catalog)


def test_from_each_in_between(database: Path) -> None:
    """Catalogs that stopped at any schema since are migrated likewise, each after a copy of it."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    revisions = sorted(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())
    assert revisions[-1] == REVISION
    for number in revisions[1:-1]:
        url = f"{database}.{number}.db"
        make_first_schema(url)
        store = Store(parse_url(url))

        def work(connection: Connection, number: str = number) -> None:
            config.attributes["connection"] = connection
            command.upgrade(config, number)

        store.migrate(work)
        store.close()
        assert revision(Path(url)) == number
        with Catalog.open(url) as catalog:
            check(catalog)
            assert catalog.upkeep.faults() == []
        assert revision(Path(f"{url}.{number}.backup")) == number
