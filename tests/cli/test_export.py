"""``modelhub export``, and what list and show tell of side files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import modelhub
from tests.sidefiles import build
from tests.sidefiles.build import packed
from tests.syncing.files import lora, put

MODEL = Path("models") / "harbour.safetensors"


@pytest.fixture(autouse=True)
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA with Civitai's side file and a preview, synced, hashed, tagged, named and with notes."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    put(MODEL, lora(1))
    put(MODEL.with_suffix(".civitai.info"), packed(build.CIVITAI))
    put(MODEL.with_suffix(".preview.png"), build.PNG)
    put(Path("models/other.safetensors"), lora(2))
    modelhub("library", "add", "models")
    assert "side files: 2 added" in modelhub("library", "sync").err
    modelhub("hash", "--all")
    modelhub("tag", "harbour", "mine")
    modelhub("note", "harbour", "use at night")


def shown(selector: str = "harbour.safetensors") -> Any:
    return modelhub("show", selector, "--format", "json").json()["records"][0]


def exported(*more: str) -> tuple[int, dict[str, Any]]:
    ran = modelhub("export", "harbour.safetensors", "--format", "json", *more)
    (answer,) = ran.json()["files"]
    return ran.code, answer


def test_shown_and_listed() -> None:
    """show tells claims, contradictions and previews to people; list's JSON has trigger words and preview."""
    text = modelhub("show", "harbour").out
    for words in ("claimed", "Harbour Style", "civitai", "preview", "image/png", "contradiction", "harbour at dusk"):
        assert words in text
    (entry,) = modelhub("list", "--tag", "mine", "--format", "jsonl").json_lines()
    assert entry["triggers"] == ["harbour at dusk", "water, colour"]
    assert entry["preview"] == os.path.abspath("models/harbour.preview.png")
    assert len(shown()["previews"][0]["sha256"]) == 64
    assert [each["name"] for each in modelhub("search", "dusk", "--format", "jsonl").json_lines()] == ["harbour"]


@pytest.mark.parametrize("dialect", ["a1111", "lora-manager"])
def test_round_trip(dialect: str) -> None:
    """What was exported is read back as the same facts by the next sync, and exported again as the same bytes."""
    code, answer = exported("--dialect", dialect)
    assert (code, answer["action"]) == (0, "written")
    written = Path(answer["path"]).read_bytes()
    assert modelhub("library", "sync").code == 0
    detail = shown()
    (facts,) = (each["facts"] for each in detail["claims"] if each["origin"] == dialect)
    assert facts["description"] == "Harbours\nBoats & water."
    assert facts["notes"] == "use at night"
    assert facts["digests"]["sha256"] == detail["entry"]["digest"]
    if dialect == "a1111":
        assert facts["base_model"] == "SD1"
        assert facts["triggers"] == ["harbour at dusk", "water", "colour"]
    else:
        assert (facts["name"], facts["base_model"], facts["kind"]) == ("Harbour Style", "SD 1.5", "LORA")
        assert facts["tags"] == ["mine", "style", "boats"]
        assert (facts["version_id"], facts["triggers"]) == (128713, ["harbour at dusk", "water, colour"])
    assert not any(answer["path"] in text for text in detail["disagreements"])
    assert exported("--dialect", dialect)[1]["action"] == "unchanged"
    assert Path(answer["path"]).read_bytes() == written


def test_facts_taken_back_do_not_come_back() -> None:
    """A tag that was taken away is not in the next export, though the last one still has it."""
    exported("--dialect", "lora-manager")
    modelhub("library", "sync")
    modelhub("tag", "harbour.safetensors", "mine", "--remove")
    code, answer = exported("--dialect", "lora-manager")
    assert (code, answer["action"]) == (0, "replaced")
    assert json.loads(Path(answer["path"]).read_bytes())["tags"] == ["style", "boats"]


def test_foreign_files_are_kept() -> None:
    """Another program's file, or an export that somebody has changed, is replaced only when asked."""
    foreign = MODEL.with_suffix(".civitai.info")
    before = foreign.read_bytes()
    code, answer = exported("--dialect", "civitai")
    assert (code, answer["action"]) == (2, "refused")
    assert foreign.read_bytes() == before
    code, answer = exported("--dialect", "civitai", "--overwrite", "--dry-run")
    assert (code, answer["action"], foreign.read_bytes()) == (0, "would replace", before)
    assert exported("--dialect", "civitai", "--overwrite")[1]["action"] == "replaced"
    assert exported("--dialect", "civitai")[1]["action"] in ("unchanged", "replaced")
    changed = json.loads(foreign.read_bytes())
    changed["trainedWords"] = ["mine"]
    foreign.write_bytes(packed(changed))
    assert exported("--dialect", "civitai")[0] == 2
    assert json.loads(foreign.read_bytes())["trainedWords"] == ["mine"]


def test_links_and_folders_are_kept() -> None:
    """A link or a folder that has the name is not written through or replaced."""
    target = MODEL.with_suffix(".json")
    os.symlink("elsewhere.json", target)
    assert exported("--dialect", "a1111")[0] == 2
    assert not os.path.exists("models/elsewhere.json")
    os.unlink(target)
    target.mkdir()
    assert exported("--dialect", "a1111", "--overwrite")[0] == 2
    assert target.is_dir()


def test_dry_run_and_to() -> None:
    """--dry-run writes nothing; --to writes into the folder, also of what is gone; a missing folder is an error."""
    os.mkdir("out")
    code, answer = exported("--dialect", "civitai", "--to", "out", "--dry-run")
    assert (code, answer["action"], os.listdir("out")) == (0, "would write", [])
    ran = modelhub("export", "harbour", "other", "--dialect", "a1111", "--to", "out")
    assert (ran.code, sorted(os.listdir("out"))) == (0, ["harbour.json", "other.json"])
    assert "2 side files" in ran.err
    os.unlink(MODEL)
    modelhub("library", "sync")
    assert modelhub("export", "harbour", "--dialect", "civitai").code == 2
    assert modelhub("export", "harbour", "--dialect", "civitai", "--to", "out").code == 0
    ran = modelhub("export", "other", "--dialect", "civitai", "--to", "missing")
    assert (ran.code, "no such folder" in ran.err) == (2, True)
    assert not [name for name in os.listdir("out") if "part" in name]


def test_two_of_one_name() -> None:
    """Two records that would be the same file are refused before anything is written."""
    put(Path("models/sub/other.safetensors"), lora(3))
    modelhub("library", "sync")
    os.mkdir("out")
    first, second = os.path.abspath("models/other.safetensors"), os.path.abspath("models/sub/other.safetensors")
    ran = modelhub("export", first, second, "--dialect", "a1111", "--to", "out")
    assert (ran.code, os.listdir("out")) == (2, [])
    assert "two records" in ran.err
