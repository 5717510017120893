"""``modelhub library``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from modelhub.errors import AccessDenied
from tests.cli.run import modelhub
from tests.syncing.files import lora, put


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of two LoRAs that the catalog follows and has seen."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    for number in range(2):
        put(Path("models") / f"m{number}.safetensors", lora(number))
    assert modelhub("library", "add", "models").code == 0
    assert modelhub("library", "sync").code == 0
    return "models"


def test_sync_says_what_changed(followed: str) -> None:
    """A sync tells each change to people and programs, and the second one tells of none."""
    os.rename("models/m0.safetensors", "models/new.safetensors")
    put(Path("models/m1.safetensors"), lora(5))
    ran = modelhub("library", "sync", "--format", "json")
    assert ran.code == 0
    document = ran.json()
    assert (document["schema"], document["complete"], document["counts"]) == (
        "modelhub.sync/1",
        True,
        {"unchanged": 0, "moved": 1, "replaced": 1},
    )
    moved = next(change for change in document["changes"] if change["kind"] == "moved")
    assert os.path.basename(moved["previous"]) == "m0.safetensors"
    assert "2 unchanged" in modelhub("library", "sync").err
    assert "moved" in modelhub("library", "status").out


def test_list_and_status(followed: str) -> None:
    """Each library is listed with its dialect, state and numbers."""
    ran = modelhub("library", "list", "--format", "json")
    (root,) = ran.json()["libraries"]
    assert (root["path"], root["dialect"], root["online"]) == (os.path.abspath("models"), "plain", True)
    assert root["files"] == {"live": 2, "offline": 0, "missing": 0}
    status = modelhub("library", "status", "--format", "json").json()
    assert [change["kind"] for change in status["changes"]] == ["added", "added"]


def test_what_is_unclear_can_be_said(followed: str) -> None:
    """Where nobody can tell which of two files is a lost one, the user is told how to say it, and it works."""
    modelhub("tag", "m0", "precious")
    for folder in ("a", "b"):
        os.mkdir(f"models/{folder}")
        shutil.copy2("models/m0.safetensors", f"models/{folder}")
    os.unlink("models/m0.safetensors")
    ran = modelhub("library", "sync")
    assert (ran.out.count("unclear   "), "modelhub group ID PATH" in ran.err) == (2, True)
    (lost,) = (each for each in modelhub("list", "--gone", "--format", "jsonl").json_lines() if each["state"] == "gone")
    assert modelhub("group", str(lost["id"]), "models/b/m0.safetensors").code == 0
    tagged = modelhub("list", "--tag", "precious", "--format", "jsonl").json_lines()
    assert [os.path.relpath(each["path"]) for each in tagged] == ["models/b/m0.safetensors"]


def test_a_library_that_is_elsewhere(followed: str) -> None:
    """Where all files of a library that is not there were found in another one, that is said, with what to do."""
    shutil.move("models", "moved")
    modelhub("library", "add", "moved")
    ran = modelhub("library", "sync", "--format", "json")
    assert ran.json()["elsewhere"] == [os.path.abspath("models")]
    assert f"modelhub library remove {os.path.abspath('models')}" in ran.err
    assert modelhub("library", "remove", "models").code == 0
    assert modelhub("library", "sync", "--format", "json").json()["offline"] == []


def test_an_unplugged_library_is_a_warning(followed: str) -> None:
    """A library that is not there is warned of, and is an error only for who asked for it."""
    shutil.move("models", "away")
    ran = modelhub("library", "sync")
    assert (ran.code, "offline" in ran.err) == (0, True)
    assert modelhub("list").out.count("(offline)") == 2
    assert modelhub("library", "sync", "--library", "models").code == 2
    assert [entry["state"] for entry in modelhub("list", "--format", "jsonl").json_lines()] == ["offline"] * 2


def test_a_file_that_cannot_be_read_is_2(followed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that could not look at everything says so with its exit code, and the next one tries again."""

    def refuse(self: object, file: object) -> None:
        raise AccessDenied("may not be read: permission denied")

    put(Path("models/m2.safetensors"), lora(2))
    with monkeypatch.context() as patch:
        patch.setattr("modelhub.syncing.readers.Reader.read", refuse)
        ran = modelhub("library", "sync")
    assert (ran.code, "permission denied" in ran.err) == (2, True)
    assert modelhub("library", "sync", "--format", "json").json()["counts"] == {"unchanged": 2, "added": 1}


def test_remove(followed: str) -> None:
    """A library that is removed is listed no more, and its files stay."""
    assert modelhub("library", "remove", "models").code == 0
    assert modelhub("library", "list", "--format", "json").json()["libraries"] == []
    assert sorted(os.listdir("models")) == ["m0.safetensors", "m1.safetensors"]
    assert modelhub("library", "remove", "models").code == 2


def test_intake_of_what_a_sync_found(followed: str) -> None:
    """A file that a sync has recorded is the same record when intake reads it, with its digest and verdict."""
    modelhub("tag", "m0", "mine")
    assert modelhub("intake", "models/m0.safetensors").code == 0
    (entry,) = modelhub("list", "--tag", "mine", "--format", "jsonl").json_lines()
    assert (entry["verdict"], len(entry["digest"])) == ("safe", 64)
    assert len(modelhub("list", "--format", "jsonl").json_lines()) == 2
    assert "2 unchanged" in modelhub("library", "sync").err
