"""``modelhub collection``, ``group``, ``rate`` and ``note``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import modelhub, process
from tests.syncing.files import lora, put


@pytest.fixture(autouse=True)
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog of two LoRAs, m0 and m1."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    for number in range(2):
        put(Path("models") / f"m{number}.safetensors", lora(number))
    modelhub("library", "add", "models")
    modelhub("library", "sync")


def names(*filters: str) -> list[str]:
    return [entry["name"] for entry in modelhub("list", *filters, "--format", "jsonl").json_lines()]


def test_a_collection_from_beginning_to_end() -> None:
    """A collection is made, filled, listed, filtered by, emptied and deleted."""
    assert modelhub("collection", "create", "Best of").code == 0
    assert "2 models added" in modelhub("collection", "add", "best of", "m0", "m1").err
    (listed,) = modelhub("collection", "list", "--format", "json").json()["collections"]
    assert (listed["name"], listed["size"]) == ("Best of", 2)
    assert modelhub("collection", "list").out == "Best of  (2 models)\n"
    modelhub("collection", "remove", "Best of", "m0")
    assert names("--collection", "Best of") == ["m1"]
    assert len(modelhub("collection", "show", "Best of", "--format", "jsonl").json_lines()) == 1
    assert "Best of" in modelhub("show", "m1").out
    assert modelhub("collection", "delete", "Best of").code == 0
    assert modelhub("collection", "show", "Best of").code == 2
    assert names() == ["m0", "m1"]


def test_a_replaced_file_keeps_what_was_written() -> None:
    """Tags, notes, rating and collections hold for the file that takes the place; show names the one before."""
    modelhub("collection", "create", "c")
    modelhub("collection", "add", "c", "m0")
    modelhub("rate", "m0", "4")
    modelhub("note", "m0", "trained in spring")
    put(Path("models/m0.safetensors"), lora(7))
    modelhub("library", "sync")
    (entry,) = modelhub("search", "spring", "--collection", "c", "--format", "jsonl").json_lines()
    assert (entry["state"], entry["rating"]) == ("live", 4)
    assert "also  " in modelhub("show", "m0").out
    assert "(gone)" in modelhub("show", "m0").out


def test_group() -> None:
    """Two records become one model and two again."""
    modelhub("tag", "m0", "mine")
    assert [e["tags"] for e in modelhub("group", "m0", "m1", "--format", "jsonl").json_lines()] == [["mine"]] * 2
    assert modelhub("group", "m0").code == 2
    assert modelhub("group", "--remove", "m1").code == 0
    modelhub("tag", "m1", "--remove", "mine")
    assert names("--tag", "mine") == ["m0"]


def test_rate() -> None:
    """Several records are rated at once, and a rating is taken back."""
    assert modelhub("rate", "m0", "m1", "5").code == 0
    assert modelhub("rate", "m0", "nobody", "1").code == 2
    assert modelhub("list", "--rating", "5", "--format", "csv").out.count("\r\n") == 3
    assert modelhub("rate", "m0", "none").code == 0
    ratings = [entry["rating"] for entry in modelhub("list", "--format", "jsonl").json_lines()]
    assert ratings == [None, 5]
    assert modelhub("rate", "m0", "6").code == 2


def test_note() -> None:
    """Notes are written, added to, read from standard input, and cleared."""
    modelhub("note", "m0", "one")
    modelhub("note", "m0", "two", "--append")
    assert _notes() == "one\ntwo"
    assert process("note", "m0", "-", stdin=b"three\nfour\n").returncode == 0
    assert _notes() == "three\nfour"
    assert modelhub("note", "m0", "--clear").code == 0
    assert _notes() == ""
    for wrong in ((), ("x", "--clear"), ("--append",)):
        assert modelhub("note", "m0", *wrong).code == 2


def _notes() -> str:
    return str(modelhub("show", "m0", "--format", "json").json()["records"][0]["notes"])
