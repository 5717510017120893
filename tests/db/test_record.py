"""Recording: bytes apart from paths apart from names; nothing written twice, nothing lost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from modelhub.container.base import Skipped
from modelhub.db import Catalog, Query
from modelhub.errors import CatalogError
from modelhub.scan.findings import Verdict
from tests.db.conftest import CHECKPOINT, EVAL, LORA, NOTHING, Shelf, digest, dump, report, stat


def test_entry_says_what_was_recorded(shelf: Shelf) -> None:
    """An entry carries the identity, the verdict, the size, the digest and the path, and a name from the file's."""
    entry = shelf.put("/m/Some Model.v2.ckpt", "bytes", CHECKPOINT, report(Verdict.UNSAFE, EVAL, container="torch-zip"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.added)
    assert entry.as_dict() == {
        "id": entry.id,
        "artifact": entry.id,
        "name": "Some Model.v2",
        "kind": "checkpoint",
        "architecture": "sd-1",
        "variant": "inpaint",
        "prediction_type": "epsilon",
        "precision": "fp32",
        "container": "torch-zip",
        "verdict": "unsafe",
        "size": 100,
        "digest": digest("bytes").sha256,
        "path": "/m/Some Model.v2.ckpt",
        "state": "live",
        "rating": None,
        "tags": (),
        "added": entry.added,
        "triggers": (),
        "preview": None,
        "problem": None,
    }
    assert shelf.catalog.entries() == [entry]


def test_unknown_facts_stay_unknown(shelf: Shelf) -> None:
    """What was not told is null, not a guess."""
    entry = shelf.put("/m/page.safetensors", identity=NOTHING, scan=report(Verdict.UNKNOWN, container=None))
    assert (entry.kind, entry.architecture, entry.container) == (None, None, None)
    assert shelf.catalog.show("page").identification.candidates == ("sd-1", "sd-2")


@pytest.mark.parametrize(
    ("path", "is_folder", "name"),
    [
        ("/m/a.b.safetensors", False, "a.b"),
        ("/m/stable-diffusion-v1.5", True, "stable-diffusion-v1.5"),
        ("/m/folder.v2/", True, "folder.v2"),
        ("/m/.hidden", False, ".hidden"),
    ],
)
def test_names_from_paths(shelf: Shelf, path: str, is_folder: bool, name: str) -> None:
    """A file is called as its name without the extension, a folder as its whole name."""
    assert shelf.put(path, is_folder=is_folder).name == name


def test_given_name(shelf: Shelf) -> None:
    """A name that was given is used for new bytes; bytes known keep the name that they have."""
    assert shelf.put("/m/a.ckpt", "A", name="Alpha").name == "Alpha"
    assert shelf.put("/m/b.ckpt", "A", name="Beta").name == "Alpha"


def test_recording_twice_changes_nothing(shelf: Shelf, url: str) -> None:
    """The same thing recorded again leaves every table as it was."""
    scan = report(Verdict.UNSAFE, EVAL, skipped=(Skipped("encrypted", "a.bin"),))
    arguments = ("/m/a.ckpt", "A", LORA, scan)
    first = shelf.put(*arguments, metadata={"b": "2", "a": "1"})
    before = dump(url)
    assert shelf.put(*arguments, metadata={"a": "1", "b": "2"}) == first
    assert dump(url) == before


def test_two_paths_one_content(shelf: Shelf) -> None:
    """Copies are one record with several places; its path is the one recorded last."""
    first = shelf.put("/m/a.ckpt", "A")
    second = shelf.put("/n/b.ckpt", "A", seen=stat("/n/b.ckpt", ino=12, dev=8))
    assert first.id == second.id
    assert [place.path for place in shelf.catalog.show("a").locations] == ["/n/b.ckpt", "/m/a.ckpt"]
    assert [entry.path for entry in shelf.catalog.entries()] == ["/n/b.ckpt"]


def test_replaced_bytes(shelf: Shelf) -> None:
    """A path whose bytes were replaced leads to the new ones; the old keep their record, notes and history."""
    shelf.put("/m/a.ckpt", "old")
    shelf.catalog.note("a", "loved this one")
    new = shelf.put("/m/a.ckpt", "new")
    assert shelf.catalog.entries() == [new]
    assert shelf.catalog.show("/m/a.ckpt").entry == new
    old = shelf.catalog.show(str(digest("old")))
    assert old.entry.path is None
    assert old.notes == "loved this one"
    assert [(place.path, place.ended is None) for place in old.locations] == [("/m/a.ckpt", False)]
    assert {entry.digest for entry in shelf.catalog.entries(Query(gone=True))} == {old.entry.digest, new.digest}


def test_bytes_put_back(shelf: Shelf) -> None:
    """Bytes that return to their path are the record that they were."""
    first = shelf.put("/m/a.ckpt", "old")
    shelf.put("/m/a.ckpt", "new")
    assert shelf.put("/m/a.ckpt", "old") == first
    assert [place.ended is None for place in shelf.catalog.show(first.digest).locations] == [True, False]


def test_renamed_file(shelf: Shelf, tmp_path: Path) -> None:
    """A file seen under a new name, its old one gone from the same device, has one place, and keeps tags and notes."""
    here = tmp_path / "new.ckpt"
    here.write_bytes(b"")
    shelf.put(str(tmp_path / "old.ckpt"), "A")
    shelf.catalog.tag("old", ["kept"])
    entry = shelf.put(str(here), "A")
    assert (entry.name, entry.tags, entry.path) == ("old", ("kept",), str(here))
    assert [place.ended is None for place in shelf.catalog.show("old").locations] == [True, False]


def test_absent_device_is_not_a_removal(shelf: Shelf, tmp_path: Path) -> None:
    """A path that cannot be seen because its disk is away still counts as a place of the bytes."""
    shelf.put("/mnt/away/a.ckpt", "A", seen=stat("/mnt/away/a.ckpt", dev=99))
    shelf.put(str(tmp_path / "a.ckpt"), "A", seen=stat(str(tmp_path / "a.ckpt"), dev=7))
    assert all(place.ended is None for place in shelf.catalog.show("a").locations)


def test_unchanged(shelf: Shelf) -> None:
    """A file is known without being read exactly while its stat, the policy and the version are those recorded."""
    seen = stat("/m/a.ckpt", size=5, mtime_ns=2**63 + 1, dev=2**64 - 1, ino=2**64 - 2)
    entry = shelf.put("/m/a.ckpt", "A", seen=seen)
    assert shelf.catalog.unchanged(seen, "p1", "v1") == entry
    assert shelf.catalog.unchanged(seen, "p2", "v1") is None
    assert shelf.catalog.unchanged(seen, "p1", "v2") is None
    for change in ({"path": "/m/b.ckpt"}, {"size": 6}, {"mtime_ns": 1}, {"dev": 1}, {"ino": 1}):
        assert shelf.catalog.unchanged(seen._replace(**change), "p1", "v1") is None


def test_unchanged_names_the_path_asked_for(shelf: Shelf) -> None:
    """Of several places of the same bytes, the entry has the one that was asked for."""
    shelf.put("/m/a.ckpt", "A")
    shelf.put("/m/b.ckpt", "A", seen=stat("/m/b.ckpt", dev=8))
    found = shelf.catalog.unchanged(stat("/m/a.ckpt"), "p1", "v1")
    assert found is not None
    assert found.path == "/m/a.ckpt"


def test_touched_file(shelf: Shelf) -> None:
    """The same bytes with a new modification time stay one place, known by the new time."""
    shelf.put("/m/a.ckpt", "A")
    touched = stat("/m/a.ckpt", mtime_ns=2)
    shelf.put("/m/a.ckpt", "A", seen=touched)
    assert shelf.catalog.unchanged(stat("/m/a.ckpt"), "p1", "v1") is None
    assert shelf.catalog.unchanged(touched, "p1", "v1") is not None
    assert len(shelf.catalog.show("a").locations) == 1


def test_scans_are_appended(shelf: Shelf) -> None:
    """A later scan by another policy or version is in force, and the earlier ones stay readable."""
    shelf.put("/m/a.ckpt", "A", scan=report(Verdict.UNKNOWN))
    shelf.put("/m/a.ckpt", "A", scan=report(Verdict.UNSAFE, EVAL, policy="p2"))
    shelf.put("/m/a.ckpt", "A", scan=report(Verdict.SAFE, policy="p2"), version="v2")
    detail = shelf.catalog.show("a")
    assert detail.entry.verdict == "safe"
    assert detail.findings == ()
    assert [(run.verdict, run.policy_version, run.version) for run in detail.scans] == [
        ("safe", "p2", "v2"),
        ("unsafe", "p2", "v1"),
        ("unknown", "p1", "v1"),
    ]


def test_identifications_are_appended(shelf: Shelf) -> None:
    """A later identification is in force for lists and filters."""
    shelf.put("/m/a.ckpt", "A", NOTHING)
    shelf.put("/m/a.ckpt", "A", LORA, version="v2")
    assert [entry.kind for entry in shelf.catalog.entries()] == ["lora"]
    assert shelf.catalog.entries(Query(kind="lora")) == shelf.catalog.entries()
    shelf.put("/m/a.ckpt", "A", CHECKPOINT, version="v3")
    assert shelf.catalog.entries(Query(kind="lora")) == []


def test_detail_says_everything(shelf: Shelf) -> None:
    """What is shown of a record has findings, coverage, evidence, adapter and metadata, as JSON has it."""
    scan = report(Verdict.UNSAFE, EVAL, skipped=(Skipped("encrypted", "a.bin"),))
    shelf.put("/m/a.ckpt", "A", LORA, scan, metadata={"author": "someone"})
    detail = shelf.catalog.show("a").as_dict()
    assert detail["findings"] == (
        {
            "rule": "pickle.unsafe-import",
            "severity": "critical",
            "confidence": "high",
            "message": "imports builtins.eval",
            "member": "archive/data.pkl",
            "offset": 17,
            "evidence": "builtins.eval('…')",
        },
    )
    assert detail["scans"][0]["complete"] is False
    assert detail["scans"][0]["skipped"] == ({"reason": "encrypted", "member": "a.bin"},)
    identified = detail["identification"]
    assert identified["adapter"]["ranks"] == {"8": 2, "16": 1}
    assert identified["adapter"]["algorithms"] == {"lora": 3}
    assert identified["evidence"][0]["by"] == "key"
    assert identified["components"] == ("unet",)
    assert (identified["tensor_count"], identified["parameter_count"]) == (3, 300)
    assert detail["metadata"] == {"author": "someone"}


def test_metadata_follows_the_bytes(shelf: Shelf) -> None:
    """Metadata read better by a later version takes the place of what was read before."""
    shelf.put("/m/a.ckpt", "A", metadata={"a": "1", "b": "2"})
    shelf.put("/m/a.ckpt", "A", metadata={"a": "1", "c": "3"}, version="v2")
    assert shelf.catalog.show("a").metadata == {"a": "1", "c": "3"}
    assert shelf.catalog.entries(Query(text="2")) == []


def test_report_of_other_bytes_is_refused(shelf: Shelf, url: str) -> None:
    """A scan report is bound to the bytes that it judged: it cannot be written down for others."""
    before = dump(url)
    with pytest.raises(CatalogError, match="other bytes"):
        shelf.put("/m/a.ckpt", "A", scan=replace(report(), digest=digest("B")))
    assert dump(url) == before


def test_failure_keeps_nothing(catalog: Catalog, url: str) -> None:
    """A record that breaks off half way leaves no trace: no content without its scan."""
    before = dump(url)
    with pytest.raises(AttributeError):
        catalog.record(
            stat("/m/a.ckpt"),
            digest("A"),
            report(),
            None,  # type: ignore[arg-type]
            tensor_count=None,
            parameter_count=None,
            metadata={},
            version="v1",
        )
    assert dump(url) == before
