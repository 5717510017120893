"""``modelhub list`` and ``search``: formats, order and paging."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.db import ENTRY_FIELDS, Detail
from modelhub.report.csv import csv_rows
from tests.cli.run import ROOT, Ran, modelhub
from tests.syncing.files import lora, put


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog of five LoRAs, two of them with names that need quoting."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    for number, name in enumerate(['a, "b"', "c\nd", "e", "f", "g"]):
        put(Path("models") / f"{name}.safetensors", lora(number))
    modelhub("library", "add", "models")
    modelhub("library", "sync")


def test_csv_has_what_json_has(listed: None) -> None:
    """A CSV reader gets the fields of the JSON objects back, whatever stands in a name."""
    modelhub("tag", "e", "one", "two; three")
    ran = modelhub("list", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ran.out, newline="")))
    entries = modelhub("list", "--format", "jsonl").json_lines()
    assert ran.out.count("\r\n") == 6
    assert tuple(rows[0]) == ENTRY_FIELDS == tuple(entries[0])
    for row, entry in zip(rows, entries, strict=True):
        assert row == {
            name: "; ".join(value) if isinstance(value, list) else "" if value is None else str(value)
            for name, value in entry.items()
        }
    assert modelhub("search", "--format", "csv", "-o", "found.csv", "two").code == 0
    assert Path("found.csv").read_bytes().count(b"\r\n") == 2


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.text()})))
def test_any_text_survives(objects: list[dict[str, str]]) -> None:
    """Whatever text is written comes back from Python's reader of CSV."""
    text = "".join(csv_rows(("a", "b"), objects))
    assert list(csv.DictReader(io.StringIO(text, newline=""), strict=True)) == objects


def test_a_name_that_is_no_text() -> None:
    """Bytes of a file name that are not UTF-8 are spelt out."""
    assert list(csv_rows(("path",), [{"path": "x\udcff"}])) == ["path\r\n", "x\\udcff\r\n"]


@pytest.mark.parametrize("sort", ["name", "size", "rating", "path", "precision"])
def test_pages(listed: None, sort: str) -> None:
    """The pages of a listing are the whole listing, in its order."""
    modelhub("set", "f", "rating=3")
    whole = [entry["id"] for entry in modelhub("list", "--sort", sort, "--format", "jsonl").json_lines()]
    assert len(whole) == 5
    pages = [
        entry["id"]
        for offset in range(0, 6, 2)
        for entry in modelhub(
            "list", "--sort", sort, "--limit", "2", "--offset", str(offset), "--format", "jsonl"
        ).json_lines()
    ]
    assert pages == whole
    back = modelhub("list", "--sort", "rating", "--reverse", "--limit", "1", "--format", "jsonl").json_lines()
    assert back[0]["name"] == "f"


def test_every_field_is_documented() -> None:
    """docs/records.md has each field of a record and of what show adds, and no other."""
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    record, _, more = page.partition("## What show adds")
    assert _named(record) == list(ENTRY_FIELDS)
    assert _named(more) == [each.name for each in fields(Detail) if each.name != "entry"]


def _named(section: str) -> list[str]:
    cells = re.findall(r"^\| (`.+?`) \| ", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("way", [("library", "sync"), ("intake", "models", "--exit-zero")])
def test_broken_files_are_listed_with_what_is_wrong(way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists say which files are broken, and how; ``--broken`` lists only those, however they came into the catalog."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    put(Path("models") / "whole.safetensors", lora(1))
    put(Path("models") / "cut.safetensors", lora(2)[:-100])
    put(Path("models") / "page.safetensors", b"<!doctype html><html>404</html>")
    modelhub("library", "add", "models")
    assert modelhub(*way).code == 0
    entries = {entry["name"]: entry["problem"] for entry in modelhub("list", "--format", "jsonl").json_lines()}
    assert entries["whole"] is None
    assert "100 bytes" in entries["cut"]
    assert "HTML" in entries["page"]
    broken = modelhub("list", "--broken")
    assert "whole" not in broken.out
    assert "problem" in broken.out
    assert "problem" not in modelhub("search", "whole").out
    put(Path("models") / "cut.safetensors", lora(2))
    assert modelhub(*way).code == 0
    assert [entry["name"] for entry in modelhub("list", "--broken", "--format", "jsonl").json_lines()] == ["page"]


@pytest.mark.parametrize(
    ("fact", "meant"),
    [
        ("architecture=sd15", "sd-1"),
        ("kind=checkpint", "checkpoint"),
        ("prediction-type=eps", "epsilon"),
        ("kind=connector", None),
        ("kind=inpainter", None),
        ("architecture=my own", None),
    ],
)
def test_a_misspelt_value(listed: None, fact: str, meant: str | None) -> None:
    """Any value may be set; of one that is nearly a known one it is asked whether that was meant."""
    ran = modelhub("set", "e", fact)
    assert (ran.code, "did you mean" in ran.err) == (0, meant is not None)
    assert meant is None or f"did you mean {meant}?" in ran.err


def test_filters(listed: None) -> None:
    """A listing is narrowed by what the records are, how they are rated and where they lie; what no record is, is
    said."""
    put(Path("models") / "below%" / "h.safetensors", lora(9))
    put(Path("models") / "belows" / "i.safetensors", lora(10))
    modelhub("library", "sync")
    modelhub("set", "e", "variant=inpaint", "prediction-type=flow", "precision=fp8", "rating=4")
    modelhub("set", "f", "rating=2")
    modelhub("group", "g", "e")

    def names(*options: str) -> list[str]:
        return [entry["name"] for entry in modelhub("list", *options, "--format", "jsonl").json_lines()]

    assert names("--variant", "inpaint") == names("--prediction-type", "flow") == names("--precision", "fp8") == ["e"]
    assert names("--container", "torch-zip") == []
    assert sorted(names("--rating", "2")) == sorted(names("--rating", "2", "--sort", "rating")) == ["e", "f", "g"]
    assert names("--rating", "3", "--container", "safetensors") == ["e", "g"]
    assert names("--in", "models/below%") == names("--in", "models/below%/", "--sort", "path") == ["h"]
    assert names("--in", "models/below%/h.safetensors") == ["h"]
    assert names("--in", "Models") == []
    ran = modelhub("list", "--architecture", "sd1", "--kind", "lora")
    assert "no record has the architecture sd1: there are sd-1" in ran.err
    assert "no record has the kind" not in ran.err


def test_a_digest_that_is_searched(listed: None) -> None:
    """Who searches for a digest is told how digests are found, which may be written as ModelSpec has them."""
    modelhub("hash", "--all")
    (digest,) = {
        entry["digest"] for entry in modelhub("list", "--format", "jsonl").json_lines() if entry["name"] == "e"
    }
    assert f"list --digest {digest[:10]}" in modelhub("search", digest[:10]).err
    assert "digest" not in modelhub("search", "nothing").err
    (entry,) = modelhub("list", "--digest", f"0x{digest[:12]}", "--format", "jsonl").json_lines()
    assert entry["name"] == "e"


def test_many_are_tagged_at_once(listed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are tagged by the list, all of them or none, and the tags are listed with how many have them."""
    modelhub("group", "e", "f")
    chosen = [f"#{entry['id']}" for entry in modelhub("list", "--format", "jsonl").json_lines()]

    def tag(given: str, *arguments: str) -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        return modelhub("tag", "-", *arguments, "--format", "jsonl")

    assert len(tag("\n".join(chosen), "One", "two").json_lines()) == 5
    assert tag("\n".join([*chosen, "nobody"]), "three").code == 2
    assert tag(f"{chosen[0]}\r\n", "two", "--remove").code == 0
    listing = modelhub("tags", "--format", "json").json()
    assert listing["tags"] == [{"tag": "one", "size": 4}, {"tag": "two", "size": 3}]
    assert modelhub("tags").out == "one  (4 models)\ntwo  (3 models)\n"
    assert modelhub("tags", "--format", "csv").out.splitlines()[0] == "tag,size"


def test_ratings_and_states_are_shown(listed: None) -> None:
    """A list has ratings where there are any, and says of which records the files are gone."""
    assert "rating" not in modelhub("list").out
    modelhub("rate", "f", "4")
    os.unlink("models/g.safetensors")
    modelhub("library", "sync")
    assert "4 of 5" in modelhub("list").out
    assert "(gone)" not in modelhub("list").out
    assert "g (gone)" in modelhub("list", "--gone").out
