"""What only a catalog on a PostgreSQL server does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from modelhub.db import Catalog, Query
from modelhub.db.engine import Store, parse_url
from modelhub.db.schema import VERSION_TABLE
from modelhub.errors import CatalogError, CatalogLocked, SchemaTooNew
from tests.cli.run import modelhub
from tests.conftest import needs_server
from tests.db.conftest import Shelf
from tests.postgresql import Server

pytestmark = needs_server


@pytest.fixture
def url(server: Server) -> str:
    return server.catalog()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A way past the catalog to its database."""
    engine = create_engine(parse_url(url))
    yield engine
    engine.dispose()


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def refusal(url: str) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        Catalog.open(url)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_schemes(url: str, scheme: str) -> None:
    """Every way in which people write such a URL leads to the same driver."""
    with Catalog.open(url.replace("postgresql+psycopg", scheme, 1)) as catalog:
        assert catalog.entries() == []


def test_newer_schema_is_refused(url: str, engine: Engine) -> None:
    """A catalog of a later version is left alone."""
    execute(engine, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert isinstance(refusal(url), SchemaTooNew)


def test_what_is_no_catalog_is_refused(server: Server) -> None:
    """A database of something else, one that cannot hold every text, and one that is not there are refused in words."""
    url = server.empty()
    other = create_engine(parse_url(url))
    execute(other, "CREATE TABLE notes (note text)")
    other.dispose()
    assert "something else" in str(refusal(url))
    assert "encoding is LATIN1" in str(refusal(server.empty("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")))
    assert "does not exist" in str(refusal(url.replace("catalog_", "no_catalog_")))
    assert "could not answer" in str(refusal("postgresql+psycopg://me:secret@127.0.0.1:1/x"))
    assert "secret" not in str(refusal("postgresql+psycopg://me:secret@127.0.0.1:1/x"))


def test_an_old_server_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of a version that the tests do not run on is refused before anything is made."""
    monkeypatch.setattr("modelhub.db.upgrade.OLDEST_POSTGRESQL", 1000)
    url = server.empty()
    assert "too old" in str(refusal(url))
    monkeypatch.undo()
    Catalog.open(url).close()


def test_locked(url: str) -> None:
    """While another process writes, reading goes on, and writing gives up in words after the time-out."""
    with Catalog.open(url) as catalog:
        entry = Shelf(catalog).put("/m/a.safetensors")
    store = Store(parse_url(url))
    hurried = f"{url}&timeout=0.05"

    def meanwhile(_: Connection) -> None:
        with Catalog.open(hurried) as catalog:
            assert catalog.entries() == [entry]
            with pytest.raises(CatalogLocked):
                catalog.tag("a", ["tag"])

    store.write(meanwhile)
    store.close()
    with Catalog.open(hurried) as catalog:
        assert catalog.tag("a", ["tag"]).tags == ("tag",)


def test_reading_sees_one_moment(url: str) -> None:
    """What is committed while a list is read does not show in its second half."""
    store = Store(parse_url(url))
    with Catalog.open(url) as catalog:
        shelf = Shelf(catalog)
        shelf.put("/m/a.safetensors")

        def work(connection: Connection) -> tuple[int, int]:
            before = connection.scalar(text("SELECT count(*) FROM record"))
            shelf.put("/m/b.safetensors")
            return before, connection.scalar(text("SELECT count(*) FROM record"))

        assert store.read(work) == (1, 1)
        assert len(catalog.entries()) == 2
    with pytest.raises(CatalogError, match="may not be written"):
        store.read(lambda connection: connection.execute(text("DELETE FROM record_tag")))
    store.close()


def test_a_server_that_was_started_anew(url: str, engine: Engine) -> None:
    """A catalog that stays open outlives its connections."""
    with Catalog.open(url) as catalog:
        assert catalog.entries() == []
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert catalog.entries() == []


def plans(url: str, query: Query) -> str:
    """How the server finds what *query* asks for, where it may not simply look through the tables."""
    seen: list[str] = []
    store = Store(parse_url(url))
    catalog = Catalog(store)

    def explain(connection: Connection, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "LIKE" in statement and not statement.startswith("EXPLAIN"):
            with connection.begin_nested():
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                rows = connection.exec_driver_sql("EXPLAIN " + statement, parameters)  # type: ignore[arg-type]
                seen.extend(str(row[0]) for row in rows)

    event.listen(store._engine, "before_cursor_execute", explain)
    catalog.entries(query)
    catalog.close()
    return "\n".join(seen)


def test_searches_use_the_indexes(url: str) -> None:
    """A word is looked up among the words of headers in a tsvector's index, among names in one of trigrams."""
    with Catalog.open(url) as catalog:
        Shelf(catalog).put("/m/a.safetensors", metadata={"author": "someone"})
    plan = plans(url, Query(text="someone"))
    for index in ("search_words", "search_words_long", "search_about"):
        assert f"Index Scan on {index} " in plan, plan


def test_more_words_than_a_vector_holds(url: str) -> None:
    """Of a header with a mebibyte of different words, the last is found, as it is of one with a word of a mebibyte."""
    with Catalog.open(url) as catalog:
        shelf = Shelf(catalog)
        words = {f"tag {number * 7919 % 10**9:09} x": number for number in range(80_000)}
        shelf.put("/m/many.safetensors", metadata={"ss_tag_frequency": json.dumps({"set": {**words, "last": 1}})})
        shelf.put("/m/long.safetensors", metadata={"note": "b" * 900_000 + "end, then"})
        for word, name in (("last", "many"), ("then", "long"), ("b" * 1000, "long")):
            assert [entry.name for entry in catalog.entries(Query(text=word))] == [name]


def test_without_trigrams(server: Server) -> None:
    """A user who may not add an extension gets a catalog all the same, and its searches find what they should."""
    url = server.empty()
    owner = create_engine(parse_url(url))
    execute(owner, "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN", "GRANT ALL ON SCHEMA public TO guest")
    with Catalog.open(url.replace("tests@", "guest@")) as catalog:
        Shelf(catalog).put("/m/harbour.safetensors", metadata={"author": "someone"})
        for word in ("arbou", "some"):
            assert [entry.name for entry in catalog.entries(Query(text=word))] == ["harbour"]
    with owner.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'")) == 0
    owner.dispose()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "ALTER TABLE record_tag DROP CONSTRAINT fk_record_tag_record_id; INSERT INTO record_tag VALUES (99, 'x')",
            "1 rows of record_tag refer to rows of record",
        ),
        ("DELETE FROM search_text", "have no text to be searched by"),
        ("DELETE FROM record", "have no record"),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'search_words'::regclass", "search_words"),
        ("DROP TABLE derivation_input", "derivation_input cannot be read"),
    ],
)
def test_faults(url: str, engine: Engine, damage: str, said: str) -> None:
    """Rows that refer to nothing, that are missing or cannot be read, and unusable indexes are found and named."""
    with Catalog.open(url) as catalog:
        Shelf(catalog).put("/m/a.safetensors")
        assert catalog.upkeep.faults() == []
    execute(engine, *damage.split("; "))
    ran = modelhub("db", "check", "--catalog", url, "--format", "json")
    assert (ran.code, ran.json()["sound"]) == (1, False)
    assert any(said in fault["fault"] for fault in ran.json()["faults"])


def test_copies_are_the_servers(url: str) -> None:
    """``db backup`` says what copies such a catalog."""
    ran = modelhub("db", "backup", "copy.db", "--catalog", url)
    assert ran.code == 2
    assert "pg_dump" in ran.err
