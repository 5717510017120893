"""Identifying again without the files, and what the user knows better."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import update

from modelhub.db import Catalog, Query
from modelhub.db.identifying import Identifications
from modelhub.db.schema import header
from modelhub.errors import CatalogError
from modelhub.identify import Identity
from modelhub.library import IntakeOptions, intake
from modelhub.reidentifying import reidentify
from modelhub.samples.library import build_sample_library
from modelhub.syncing import add_library, sync
from tests.cli.run import modelhub
from tests.syncing.files import lora, put


@pytest.fixture
def models(tmp_path: Path, catalog: Catalog) -> Path:
    folder = tmp_path / "models"
    for number in range(2):
        put(folder / f"m{number}.safetensors", lora(number))
    add_library(catalog, str(folder))
    sync(catalog)
    return folder


def new_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelhub.reidentifying.rules_version", lambda: "other")


def test_nothing_to_do(catalog: Catalog, models: Path) -> None:
    """What the present rules have identified is not identified again."""
    assert reidentify(catalog) == (0, 0, 0)


@pytest.mark.parametrize("by_sync", [True, False])
def test_without_the_files_it_says_the_same(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_sync: bool
) -> None:
    """From what was kept, every sort of file is told as from the file itself, after it is gone."""
    folder = tmp_path / "samples"
    build_sample_library(folder)
    if by_sync:
        add_library(catalog, str(folder))
        sync(catalog)
    else:
        list(intake([str(folder)], catalog, IntakeOptions(convert=False)))
    entries = catalog.entries()
    before = {entry.id: catalog.show(f"#{entry.id}").identification for entry in entries}
    shutil.rmtree(folder)
    new_rules(monkeypatch)
    assert reidentify(catalog) == (len(entries), 0, 0)
    assert reidentify(catalog) == (0, 0, 0)
    assert catalog.entries() == entries
    for entry in entries:
        then, now = before[entry.id], catalog.show(f"#{entry.id}").identification
        assert then is not None
        assert now is not None
        assert now.version != then.version
        assert (now.evidence, now.adapter, now.components) == (then.evidence, then.adapter, then.components)
        assert (now.tensor_count or 0, now.parameter_count or 0) == (then.tensor_count or 0, then.parameter_count or 0)


def test_new_rules_and_overrides(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that say something else change what is listed, but never what the user has set."""
    catalog.set("m0", {"architecture": "sdxl", "variant": "turbo"})
    assert [entry.name for entry in catalog.entries(Query(architecture="sdxl"))] == ["m0"]
    new_rules(monkeypatch)
    monkeypatch.setattr(
        "modelhub.reidentifying.identify_observation", lambda observation: Identity(kind="vae", architecture="flux")
    )
    assert reidentify(catalog) == (2, 2, 0)
    told = {entry.name: (entry.kind, entry.architecture, entry.variant) for entry in catalog.entries()}
    assert told == {"m0": ("vae", "sdxl", "turbo"), "m1": ("vae", "flux", None)}
    catalog.unset("m0", ["architecture", "variant"])
    assert (catalog.show("m0").entry.architecture, catalog.show("m0").overrides) == ("flux", {})


def test_overrides_outlive_syncs_and_intake(catalog: Catalog, models: Path) -> None:
    """A file examined anew, or moved, still is what the user said."""
    catalog.set("m0", {"kind": "embedding", "precision": None, "name": "Mine", "rating": "4"})
    (models / "m0.safetensors").rename(models / "moved.safetensors")
    sync(catalog)
    list(intake([str(models)], catalog))
    (entry,) = catalog.entries(Query(kind="embedding"))
    assert (entry.name, entry.precision, entry.rating, entry.verdict) == ("Mine", None, 4, "safe")
    assert catalog.show("Mine").overrides == {"kind": "embedding", "precision": None}
    assert [each.name for each in catalog.entries(Query(text="Mine"))] == ["Mine"]


@pytest.mark.parametrize("facts", [{"colour": "red"}, {"rating": "6"}, {"rating": "good"}, {"name": " "}])
def test_what_cannot_be_set(catalog: Catalog, models: Path, facts: dict[str, str]) -> None:
    """Unknown facts and impossible values are refused, and nothing is written."""
    with pytest.raises(CatalogError):
        catalog.set("m0", {"kind": "vae", **facts})
    assert catalog.show("m0").entry.kind == "lora"


def test_commands(models: Path, catalog: Catalog, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``set``, ``unset`` and ``reidentify`` from the command line."""
    monkeypatch.setenv("MODELHUB_CATALOG", url)
    ran = modelhub("set", "m0", "architecture=sdxl", "prediction-type=", "notes=keep this", "--format", "jsonl")
    (entry,) = ran.json_lines()
    assert (ran.code, entry["architecture"]) == (0, "sdxl")
    assert modelhub("search", "keep", "--format", "jsonl").json_lines() == [entry]
    assert "set by you" in modelhub("show", "m0").out
    assert modelhub("unset", "m0", "architecture", "--format", "jsonl").json_lines()[0]["architecture"] == "sd-1"
    assert modelhub("set", "m0", "architecture").code == 2
    assert "did you mean" not in ran.err
    assert "did you mean sd-1?" in modelhub("set", "m0", "architecture=sd1").err
    assert "did you mean v_prediction?" in modelhub("set", "m0", "prediction-type=V").err
    modelhub("set", "m0", "name=Mine", "rating=3")
    (entry,) = modelhub("unset", "Mine", "name", "rating", "notes", "architecture", "--format", "jsonl").json_lines()
    assert (entry["name"], entry["rating"], entry["architecture"]) == ("m0", None, "sd-1")
    assert catalog.show("m0").notes == ""
    assert modelhub("unset", "m0", "colour").code == 2
    assert "0 files identified again" in modelhub("reidentify").err


def test_a_configuration_beside_what_cannot_be_read(catalog: Catalog, models: Path) -> None:
    """A row that lacks what the configuration beside its file told, of an import say, fails no sync."""
    _, kept = next(catalog.identifications.out_of_date("none"))
    assert kept is not None
    bare = {path: {**file, "common": {}, "tensors": None} for path, file in kept["files"].items()}
    text = json.dumps({"files": bare, "configs": kept["configs"]})
    catalog._store.write(lambda connection: connection.execute(update(header).values(observation=text)).rowcount)
    put(models / "m0.yaml", b"model:\n  params:\n    parameterization: v\n")
    assert sync(catalog).side_files == {"added": 1}


def test_what_cannot_be_read_is_left(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row that makes no sense, of an import say, keeps no other file from being identified again."""
    kept = list(catalog.identifications.out_of_date("none"))
    new_rules(monkeypatch)
    broken = [(kept[0][0], {"files": {"": {"tensors": [["a"]]}}}), (kept[0][0], None), *kept[1:]]
    monkeypatch.setattr(Identifications, "out_of_date", lambda _catalog, _version: iter(broken))
    assert reidentify(catalog) == (len(kept) - 1, 0, 2)
