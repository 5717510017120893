"""A catalog written to a file, and taken in again: by an empty catalog, by another database, by one that knows some."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelhub.container.base import Skipped
from modelhub.db import Catalog, Download, Query
from modelhub.db.entries import SmokeRun
from modelhub.db.exporting import FORMAT
from modelhub.db.schema import metadata
from modelhub.errors import CatalogError, SchemaTooNew
from modelhub.intake import stat_of
from modelhub.reidentifying import reidentify
from modelhub.scan.findings import Verdict
from modelhub.source.digests import Part
from modelhub.syncing import add_library, sync
from tests.cli.run import modelhub
from tests.conftest import BACKENDS
from tests.db.conftest import CHECKPOINT, EVAL, Shelf, digest, dump, report, stat
from tests.syncing.files import lora, put


def fill(url: str, folder: Path, *, first: int = 0) -> None:
    """A catalog with something in every table: a library with files, hostile names, reports, steps, tags, overrides."""
    for number in range(first, first + 4):
        put(folder / f"m{number}.safetensors", lora(number), mtime=10**18 + number)
    with Catalog.open(url) as catalog:
        shelf = Shelf(catalog)
        put(folder / f"m{first}.json", b'{"description": "said", "activation text": "harbour"}')
        put(folder / f"m{first}.preview.png", b"\x89PNG\r\n\x1a\n" + bytes(50))
        add_library(catalog, str(folder))
        sync(catalog, processes=1)
        smoked = SmokeRun("passed", "it draws", {"seed": 1}, ({"check": "image"},), {}, None, None, "v1")
        catalog.smoke_runs.put(stat_of(str(folder / f"m{first}.safetensors")), smoked)
        catalog.smoke_runs.put(
            stat_of(str(folder / f"m{first}.safetensors")), smoked, str(folder / f"m{first + 3}.safetensors")
        )
        for place in catalog.digests.to_compute([catalog.show(f"m{first + 3}.safetensors").entry.id]):
            part = Part(name="unet", is_cast=False, fingerprint="ab" * 32, nbytes=7)
            catalog.digests.put(place, {"sha256": digest(f"{first}").sha256, "crc32": "01234567"}, [part])
        catalog.tag(f"m{first}.safetensors", ["style", "b\udc80d"])
        catalog.note(f"m{first}.safetensors", "my note\nwith two lines \0")
        catalog.set(f"m{first}.safetensors", {"architecture": "sdxl", "rating": "4"})
        (folder / f"m{first + 1}.safetensors").rename(folder / f"renamed{first}.safetensors")
        (folder / f"m{first + 2}.safetensors").unlink()
        sync(catalog, processes=1)
        scan = report(Verdict.UNSAFE, EVAL, container="torch-zip", skipped=(Skipped("encrypted", "a.bin"),))
        shelf.put("/m/\udcff\\u1234.ckpt", f"A{first}", CHECKPOINT, scan, metadata={"sshs_model_hash": "ab" * 32})
        shelf.put("/m/\udcff\\u1234.ckpt", f"A{first}", CHECKPOINT, report(), version="v2")
        came = Download("hf://o/r@c/a.ckpt", "main", ({"path": "a.ckpt", "size": 100},), False, "v1")
        catalog.origins.put_download(digest(f"A{first}"), came)
        said = {"base_model": "SDXL 1.0", "tags": ["from afar"], "digests": {"autov2": "0123456789"}}
        catalog.origins.put_claims(digest(f"A{first}"), "civitai", "https://c/1", said, {"versions": [{"id": 1}]})
        inputs = [(digest(f"A{first}"), "source")]
        catalog.derive("convert", output=digest(f"B{first}"), inputs=inputs, params={"x": 1.5}, version="v1")
        catalog.collections.create("Best")
        catalog.collections.add("Best", [f"m{first}.safetensors", f"renamed{first}.safetensors"])
        catalog.artifacts.group([f"m{first}.safetensors", f"renamed{first}.safetensors"])


def everything(url: str) -> list[tuple[object, ...]]:
    rows = dump(url)
    assert {str(row[0]) for row in rows} == set(metadata.tables), "a table is empty: what it holds is not tried"
    return rows


@pytest.mark.parametrize("to", BACKENDS)
def test_there_and_back(url: str, to: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Every row of every table, hostile text included, is the same after an export and an import, from and to every
    database; what is found, listed and checked is, too, and what is added next is added as before."""
    fill(url, tmp_path / "models")
    before = everything(url)
    other = request.getfixturevalue("server").empty() if to == "postgresql" else str(tmp_path / "other.db")
    for source, target, name in ((url, other, "1"), (other, str(tmp_path / "back.db"), "2")):
        ran = modelhub("db", "export", str(tmp_path / name), "--catalog", source)
        assert (ran.code, ran.out) == (0, "")
        assert modelhub("db", "import", str(tmp_path / name), "--catalog", target).code == 0
        assert dump(target) == before
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    with Catalog.open(other) as catalog:
        assert catalog.upkeep.faults() == []
        assert [entry.name for entry in catalog.entries(Query(text="two lines"))] != []
        assert sync(catalog, processes=1).counts == {"unchanged": 3}
        assert Shelf(catalog).put("/m/next.ckpt").id > max(int(str(row[1])) for row in before if row[0] == "record")


def test_the_same_again_changes_nothing(url: str, tmp_path: Path) -> None:
    """A catalog that takes in its own export, once and again, is as it was."""
    fill(url, tmp_path / "models")
    with Catalog.open(url) as catalog:
        for number in range(2):
            catalog.upkeep.export(str(tmp_path / f"{number}"), "v")
            before = facts(catalog)
            catalog.upkeep.take_in(str(tmp_path / f"{number}"))
            assert facts(catalog) == before
            assert catalog.upkeep.faults() == []
        assert sync(catalog, processes=1).counts == {"unchanged": 3}


def facts(catalog: Catalog) -> object:
    """Everything that is told of every record, but for numbers of our own."""
    details = [catalog.show(f"#{entry.id}").as_dict() for entry in catalog.entries(Query(gone=True))]
    return details, catalog.libraries.all(), len(catalog.libraries.changes(1000)), catalog.collections.all()


def test_merged(url: str, nowhere: Callable[[], str], tmp_path: Path) -> None:
    """Into a catalog that knows some of it come the rest, the user's words of both, and each history once."""
    fill(url, tmp_path / "models")
    other = nowhere()
    fill(other, tmp_path / "others", first=10)
    with Catalog.open(url) as here, Catalog.open(other) as there:
        for shelf, words in ((Shelf(here), "here"), (Shelf(there), "there")):
            shelf.put("/m/both.safetensors", "both", version="v2" if words == "here" else "v1")
            shelf.catalog.tag("both", [words])
            shelf.catalog.note("both", f"noted {words}")
            shelf.catalog.set("both", {"variant": words})
        here.libraries.add("/l", "plain", follow_links=True, device=1, inode=1)
        there.libraries.add("/l/inner", "plain", follow_links=True, device=1, inode=2)
        there.upkeep.export(str(tmp_path / "export"), "v")
        counts = [len(each.entries(Query(gone=True))) for each in (here, there)]
        for _ in range(2):
            here.upkeep.take_in(str(tmp_path / "export"))
            entries = here.entries(Query(gone=True))
            assert len(entries) == sum(counts) - 1
            both = here.show("both")
            assert (both.entry.tags, both.notes) == (("here", "there"), "noted here\n\nnoted there")
            assert (both.entry.variant, len(both.scans)) == ("here", 2)
            assert [place.path for place in both.locations] == ["/m/both.safetensors"]
            assert here.show("m10.safetensors").notes == "my note\nwith two lines \\u0000"
            roots = {root.path for root in here.libraries.all()}
            assert roots == {str(tmp_path / "models"), str(tmp_path / "others"), "/l"}
            assert [each.name for each in here.collections.all()] == ["Best"]
            (place,) = [each for each in entries if each.digest == digest("A10").sha256]
            assert place.state == "gone"  # its path is that of other bytes here
            assert sync(here, processes=1).counts == {"unchanged": 6, "offline": 0}
            assert here.upkeep.faults() == []


def test_hashed_on_one_side(url: str, nowhere: Callable[[], str], tmp_path: Path) -> None:
    """A file that only one side has read whole is one file; its digest is kept, whichever side it came from."""
    other = nowhere()
    put(tmp_path / "models" / "m.safetensors", lora(1))
    for each in (url, other):
        with Catalog.open(each) as catalog:
            add_library(catalog, str(tmp_path / "models"))
            sync(catalog, processes=1)
    assert modelhub("hash", "--all", "--catalog", other).code == 0
    for source, target, name in ((other, url, "1"), (url, other, "2")):
        with Catalog.open(source) as from_, Catalog.open(target) as to:
            sha256 = from_.entries()[0].digest
            from_.upkeep.export(str(tmp_path / name), "v")
            to.upkeep.take_in(str(tmp_path / name))
            assert [entry.digest for entry in to.entries()] == [sha256]
            assert sha256 is not None


def test_newest_word_is_in_force(url: str, nowhere: Callable[[], str], tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """An older verdict that is taken in does not become the one that counts."""
    other = nowhere()
    for each, verdict, time in ((url, Verdict.UNSAFE, "2026-05-01"), (other, Verdict.SAFE, "2026-01-01")):
        monkeypatch.setattr("modelhub.db.recording.now", lambda time=time: f"{time}T00:00:00Z")
        with Catalog.open(each) as catalog:
            Shelf(catalog).put("/m/a.ckpt", "A", scan=report(verdict))
    with Catalog.open(url) as here, Catalog.open(other) as there:
        there.upkeep.export(str(tmp_path / "export"), "v")
        here.upkeep.take_in(str(tmp_path / "export"))
        assert here.entries()[0].verdict == "unsafe"
        assert [scan.verdict for scan in here.show("a").scans] == ["unsafe", "safe"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of an export."""
    folder = tmp_path_factory.mktemp("export")
    fill(str(folder / "c.db"), folder / "models")
    with Catalog.open(str(folder / "c.db")) as catalog:
        catalog.upkeep.export(str(folder / "export"), "v")
    return (folder / "export").read_text().splitlines(keepends=True)


def refused(url: str, path: Path) -> CatalogError:
    """The error with which the file is refused; nothing of it is in the catalog."""
    Catalog.open(url).close()
    before = dump(url)
    with Catalog.open(url) as catalog, pytest.raises(CatalogError) as caught:
        catalog.upkeep.take_in(str(path))
    assert dump(url) == before
    assert "\n" not in str(caught.value)
    return caught.value


def test_cut_off_anywhere(shared_url: str, lines: list[str], tmp_path: Path) -> None:
    """An export that ends too early, within a line or between two, is refused whole."""
    whole = "".join(lines)
    path = tmp_path / "export"
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - len(lines[-1]), len(whole) - 3):
        path.write_text(whole[:length])
        refused(shared_url, path)
    path.write_text("".join(lines[:-2] + lines[-1:]))
    assert "numbers of rows" in str(refused(shared_url, path))
    path.write_text(whole + lines[1])
    assert "follows the end" in str(refused(shared_url, path))


def packed(text: bytes) -> dict[str, object]:
    """A layout of *text* with the digest that it has."""
    return {"packed": base64.b64encode(zlib.compress(text)).decode(), "digest": hashlib.sha256(text).hexdigest()}


def altered(lines: list[str], table: str, **values: object) -> str:
    """The export with other *values* in the first row of *table*."""
    rows = [json.loads(line) for line in lines]
    row = next(each["row"] for each in rows if each.get("table") == table)
    row |= values
    return "".join(json.dumps(each) + "\n" for each in rows)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("content", {"id": "1"}),
        ("content", {"id": -1}),
        ("content", {"id": 2**31}),
        ("content", {"size": 2**63}),
        ("content", {"size": None}),
        ("content", {"size": True}),
        ("content", {"sha256": "xyz"}),
        ("content", {"added": "\0"}),
        ("content", {"more": 1}),
        ("location", {"content_id": 99}),
        ("content", {"id": 2**30}),
        ("location", {"mtime_ns": "soon"}),
        ("location", {"device": "-1"}),
        ("location", {"state": "lost"}),
        ("location", {"live_key": None}),
        ("location", {"is_folder": 1}),
        ("library_root", {"device": "x"}),
        ("record", {"artifact_id": 99}),
        ("record", {"name": "x" * 256}),
        ("record", {"notes": None}),
        ("record", {"rating": -99}),
        ("scan_report", {"verdict": "fine"}),
        ("scan_report", {"skipped": "x"}),
        ("header", {"metadata": [1]}),
        ("header", {"metadata": {"a": 1}}),
        ("header", {"observation": "not json"}),
        ("header", {"observation": '{"files": []}'}),
        ("identification", {"evidence": [1]}),
        ("identification", {"adapter": 3}),
        ("side_file", {"claims": {"tags": "x"}}),
        ("side_file", {"claims": {"fame": "x"}}),
        ("remote_claim", {"claims": {"tags": "x"}}),
        ("remote_claim", {"extra": []}),
        ("download", {"files": ["x"]}),
        ("layout", {"packed": "!"}),
        ("layout", {"packed": "eJwDAAAAAAE="}),
        ("layout", packed(b"[1]")),
        ("layout", packed(b'{"": [1]}')),
        ("layout", {"digest": "ab" * 32}),
        ("derivation", {"output": "AB" * 32}),
        ("record_tag", {"tag": ["x"]}),
    ],
)
def test_rows_that_cannot_be(
    shared_url: str, lines: list[str], tmp_path: Path, table: str, values: dict[str, object]
) -> None:
    """A row that no program of ours could have written is refused with its line, and the whole file with it."""
    (tmp_path / "export").write_text(altered(lines, table, **values))
    error = refused(shared_url, tmp_path / "export")
    assert str(tmp_path / "export") in str(error)


def test_files_that_are_none(shared_url: str, lines: list[str], tmp_path: Path) -> None:
    """What is no export, or one of a later version, is refused in words; so are rows twice and two files at a path."""
    path = tmp_path / "export"
    for text in ("{}\n", "[]\n", "null\n", "[" * 100_000, '{"format":"x"}\n', "\x00" * 10, "\xff"):
        path.write_bytes(text.encode("latin-1"))
        refused(shared_url, path)
    path.write_text(json.dumps({"format": FORMAT, "version": 9, "schema": "0001"}) + "\n")
    assert isinstance(refused(shared_url, path), SchemaTooNew)
    path.write_text(json.dumps({"format": FORMAT, "version": 1, "schema": "9999"}) + "\n")
    assert isinstance(refused(shared_url, path), SchemaTooNew)
    twice = next(line for line in lines if '"table":"content"' in line)
    path.write_text("".join([*lines[: lines.index(twice)], twice, *lines[lines.index(twice) :]]))
    assert "two rows with the id" in str(refused(shared_url, path))
    places = [json.loads(line)["row"] for line in lines if '"table":"location"' in line]
    live = next(each for each in places if each["live_key"] is not None)
    again = json.dumps({"table": "location", "row": {**live, "id": 1000}}) + "\n"
    last = max(number for number, line in enumerate(lines) if '"table":"location"' in line)
    path.write_text("".join([*lines[: last + 1], again, *lines[last + 1 :]]))
    assert "two files at one path" in str(refused(shared_url, path))
    assert "cannot be read" in str(refused(shared_url, tmp_path / "none"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "c.db"
    Catalog.open(str(path)).close()
    return path


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_taken_in_or_refused(lines: list[str], empty: Path, tmp_path: Path, data: st.DataObject) -> None:
    """With any value of any row changed, an import ends in an error or in a sound catalog."""
    rows = [json.loads(line) for line in lines]
    row = data.draw(st.sampled_from(rows[1:-1]))["row"]
    name = data.draw(st.sampled_from(sorted(row)))
    simple = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=5) | st.floats(allow_nan=False)
    row[name] = data.draw(
        simple | st.lists(simple, max_size=2) | st.dictionaries(st.text(max_size=2), simple, max_size=2)
    )
    (tmp_path / "export").write_text("".join(json.dumps(each) + "\n" for each in rows))
    shutil.copy(empty, tmp_path / "c.db")
    with Catalog.open(str(tmp_path / "c.db")) as catalog:
        try:
            catalog.upkeep.take_in(str(tmp_path / "export"))
        except CatalogError:
            assert catalog.entries(Query(gone=True)) == []
        else:
            assert catalog.upkeep.faults() == []
            for entry in catalog.entries(Query(gone=True)):
                catalog.show(f"#{entry.id}")
            reidentify(catalog)
            catalog.upkeep.take_in(str(tmp_path / "export"))


@pytest.mark.parametrize("values", [{"notes": "mine"}, {"rating": 5}, {"artifact_id": "its own"}])
def test_what_belongs_to_an_artifact(url: str, lines: list[str], tmp_path: Path, values: dict[str, object]) -> None:
    """A record of an artifact that has notes of its own, which nobody would see, or is in a circle, is refused."""
    rows = [json.loads(line) for line in lines]
    member = next(each["row"] for each in rows if (each.get("row") or {}).get("artifact_id") is not None)
    member |= {name: member["id"] if value == "its own" else value for name, value in values.items()}
    (tmp_path / "export").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert "artifact" in str(refused(url, tmp_path / "export"))


def test_ids_leave_room(lines: list[str], tmp_path: Path) -> None:
    """However large the ids of what comes in, what a catalog that has rows already says afterwards can be taken in."""
    rows = [json.loads(line) for line in lines]
    row = next(each["row"] for each in rows if each.get("table") == "finding")
    row["id"] = 2**30 - 1
    (tmp_path / "export").write_text("".join(json.dumps(each) + "\n" for each in rows))
    fill(str(tmp_path / "c.db"), tmp_path / "others", first=20)
    with Catalog.open(str(tmp_path / "c.db")) as catalog:
        catalog.upkeep.take_in(str(tmp_path / "export"))
        catalog.upkeep.export(str(tmp_path / "again"), "v")
    with Catalog.open(str(tmp_path / "new.db")) as catalog:
        catalog.upkeep.take_in(str(tmp_path / "again"))
        assert catalog.upkeep.faults() == []
    again = map(json.loads, (tmp_path / "again").read_text().splitlines())
    highest = max(each["row"]["id"] for each in again if each.get("table") == "finding")
    assert highest < 1000


def test_nothing_is_replaced(url: str, tmp_path: Path) -> None:
    """An export does not take the place of a file, and no piece of one stays where there can be none."""
    (tmp_path / "model.safetensors").write_bytes(b"a model")
    Catalog.open(url).close()
    for name in ("model.safetensors", "none/export"):
        assert modelhub("db", "export", str(tmp_path / name), "--catalog", url).code == 2
    assert (tmp_path / "model.safetensors").read_bytes() == b"a model"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.fixture
def filled(url: str, tmp_path: Path) -> Iterator[str]:
    fill(url, tmp_path / "models")
    yield url


def test_rebuilt(filled: str, tmp_path: Path) -> None:
    """What is derived is made anew as it was; a catalog that is lost is what it was from its export and the disks."""
    from sqlalchemy import text

    from modelhub.db.engine import Store, parse_url

    before = dump(filled)
    store = Store(parse_url(filled))
    for damage in ("DELETE FROM search_text", "UPDATE record SET kind = 'vae', verdict = NULL, container = NULL"):
        store.write(lambda connection, damage=damage: connection.execute(text(damage)))
    store.close()
    assert dump(filled) != before
    ran = modelhub("db", "rebuild", "--catalog", filled)
    assert (ran.code, "3 unchanged" in ran.err) == (0, True), ran.err
    strip = [row for row in dump(filled) if row[0] != "library_root"]  # which says when it was last synced
    assert strip == [row for row in before if row[0] != "library_root"]
    assert modelhub("db", "export", str(tmp_path / "export"), "--catalog", filled).code == 0
    put(tmp_path / "models" / "later.safetensors", lora(77))
    ran = modelhub("db", "rebuild", str(tmp_path / "export"), "--catalog", str(tmp_path / "new.db"))
    assert (ran.code, "1 added, 3 unchanged" in ran.err) == (0, True), ran.err
    with Catalog.open(str(tmp_path / "new.db")) as catalog:
        assert catalog.show("m0.safetensors").notes.startswith("my note")
        assert catalog.show("later").entry.kind == "lora"
        assert catalog.show(str(stat("/m/\udcff\\u1234.ckpt").path)).scans[0].version == "v2"
