"""Syncing what stands beside the models, and what it claims of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelhub.db import Catalog, Detail, Query
from modelhub.hashing import hash_files, hash_images
from modelhub.samples import layouts
from modelhub.syncing import add_library, sync
from tests.sidefiles import build
from tests.sidefiles.build import packed
from tests.syncing.files import lora, put, zeros


@pytest.fixture
def models(tmp_path: Path, catalog: Catalog) -> Path:
    """A library of two LoRAs, one of them with a side file and a preview, synced."""
    folder = tmp_path / "models"
    put(folder / "a" / "harbour.safetensors", lora(1), mtime=10**18)
    put(folder / "a" / "harbour.civitai.info", packed(build.CIVITAI), mtime=10**18 + 1)
    put(folder / "a" / "harbour.preview.png", build.WEBP)
    put(folder / "b" / "plain.safetensors", lora(2), mtime=10**18 + 2)
    add_library(catalog, str(folder))
    sync(catalog)
    return folder


def harbour(catalog: Catalog) -> Detail:
    (entry,) = (each for each in catalog.entries(Query(gone=True)) if each.name.startswith("harbour"))
    return catalog.show(f"#{entry.id}")


def origins(detail: Detail) -> list[str]:
    return [claim.origin for claim in detail.claims if claim.origin != "metadata"]


def test_first_sync(catalog: Catalog, models: Path) -> None:
    """A side file's claims stand beside what the model's bytes say, and over nothing of it."""
    detail = harbour(catalog)
    claim = detail.claims[0]
    assert (claim.origin, claim.path, claim.changed) == (
        "civitai",
        str(models / "a" / "harbour.civitai.info"),
        "2001-09-09T01:46:40Z",
    )
    assert (claim.facts["name"], claim.facts["base_model"]) == ("Harbour Style", "SDXL 1.0")
    assert (detail.entry.name, detail.entry.architecture, detail.entry.tags, detail.notes) == (
        "harbour",
        "sd-1",
        (),
        "",
    )
    assert detail.triggers == ("harbour at dusk", "water, colour") == detail.entry.triggers
    (preview,) = detail.previews
    assert (preview.media_type, preview.role, preview.sha256) == ("image/webp", "preview", None)
    assert detail.entry.preview == preview.path == str(models / "a" / "harbour.preview.png")
    assert catalog.show("plain").previews == ()


def test_contradictions(catalog: Catalog, models: Path) -> None:
    """Where a claim of architecture or digest is contradicted by what is known, that is said."""
    put(models / "a" / "harbour.sha256", build.SHA256.encode())
    sync(catalog)
    (said,) = harbour(catalog).disagreements
    assert "harbour.civitai.info claims that it is for SDXL 1.0 (sdxl), but it is sd-1" in said
    list(hash_files(catalog))
    told = harbour(catalog).disagreements
    assert any(each.startswith("a/harbour.sha256 claims sha256") for each in told)
    assert catalog.entries(Query(digest=build.SHA256[:12]))[0].name == "harbour"


def test_searched(catalog: Catalog, models: Path) -> None:
    """Records are found by the trigger words, names, tags and descriptions of their side files."""
    for words in ("dusk", "Harbour Style", "boats", "someone", "ater."):
        assert [entry.name for entry in catalog.entries(Query(text=words))] == ["harbour"], words


def test_nothing_changed(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second sync reads no side file and writes nothing of them."""
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr("modelhub.db.SideFiles.write", None)
    assert sync(catalog).side_files == {}


def test_changed_and_removed(catalog: Catalog, models: Path) -> None:
    """What changes is read again; what is taken away takes its claims along, those of digests too."""
    card = models / "a" / "harbour.civitai.info"
    put(card, packed({**build.CIVITAI, "trainedWords": ["new"]}))
    put(models / "a" / "harbour.json", packed(build.A1111))
    assert sync(catalog).side_files == {"added": 1, "changed": 1}
    assert harbour(catalog).triggers == ("harbour at dusk", "watercolour", "new")
    assert sorted(origins(harbour(catalog))) == ["a1111", "civitai"]
    put(models / "a" / "harbour.sha256", build.SHA256.encode())
    sync(catalog)
    for name in ("harbour.json", "harbour.sha256", "harbour.civitai.info", "harbour.preview.png"):
        os.unlink(models / "a" / name)
    assert sync(catalog).side_files == {"removed": 4}
    detail = harbour(catalog)
    assert (origins(detail), detail.triggers, detail.previews, detail.digests) == ([], (), (), ())
    assert catalog.entries(Query(text="dusk")) == []


def test_moved_together(catalog: Catalog, models: Path) -> None:
    """A model that is moved with its side files has them at their new places, and once."""
    os.rename(models / "a", models / "c")
    sync(catalog)
    detail = harbour(catalog)
    assert [(claim.path, claim.ended) for claim in detail.claims[:1]] == [
        (str(models / "c" / "harbour.civitai.info"), None)
    ]
    assert origins(detail) == ["civitai"]
    assert [(each.path, each.ended) for each in detail.previews] == [(str(models / "c" / "harbour.preview.png"), None)]


def test_moved_alone(catalog: Catalog, models: Path) -> None:
    """A model that is moved without its side files keeps their claims, which say since when, and its trigger words."""
    os.rename(models / "a" / "harbour.safetensors", models / "b" / "harbour2.safetensors")
    sync(catalog)
    detail = harbour(catalog)
    assert origins(detail) == ["civitai"]
    assert detail.claims[0].ended is not None
    assert (detail.triggers[0], detail.entry.preview) == ("harbour at dusk", None)
    put(models / "b" / "harbour2.civitai.info", packed({**build.CIVITAI, "trainedWords": ["new"]}))
    sync(catalog)
    assert [claim.ended for claim in harbour(catalog).claims if claim.origin == "civitai"] == [None]
    assert harbour(catalog).triggers == ("new",)


def test_gone_and_returned(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """A model that is gone keeps what was claimed of it; when it is back, so are its side files."""
    os.rename(models / "a", tmp_path / "aside")
    sync(catalog)
    assert harbour(catalog).claims[0].ended is not None
    os.rename(tmp_path / "aside", models / "a")
    sync(catalog)
    detail = harbour(catalog)
    assert (origins(detail), detail.claims[0].ended, len(detail.previews)) == (["civitai"], None, 1)


def test_replaced(catalog: Catalog, models: Path) -> None:
    """Other bytes under the model's name: the side file is now beside these, and was beside the others."""
    put(models / "a" / "harbour.safetensors", lora(9))
    sync(catalog)
    old, new = sorted(catalog.entries(Query(text="harbour", gone=True)), key=lambda entry: entry.id)
    assert [claim.ended is None for claim in catalog.show(f"#{old.id}").claims if claim.origin == "civitai"] == [False]
    assert [claim.ended is None for claim in catalog.show(f"#{new.id}").claims if claim.origin == "civitai"] == [True]
    assert sync(catalog).side_files == {}


def test_unplugged(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """A library that is not there loses none of its side files, and they are not read again when it is back."""
    os.rename(models, tmp_path / "away")
    assert sync(catalog).side_files == {}
    assert harbour(catalog).claims[0].ended is None
    os.rename(tmp_path / "away", models)
    assert sync(catalog).side_files == {}


def test_plugged_in_elsewhere(catalog: Catalog, models: Path, tmp_path: Path) -> None:
    """What stands beside models of a library that is found elsewhere is told once, at its new place."""
    before = [each.path for each in harbour(catalog).claims if each.path]
    os.rename(models, tmp_path / "elsewhere")
    add_library(catalog, str(tmp_path / "elsewhere"))
    sync(catalog)
    after = [each for each in harbour(catalog).claims if each.path]
    assert before
    assert [each.path for each in after] == [each.replace(str(models), str(tmp_path / "elsewhere")) for each in before]
    assert {each.ended for each in after} == {None}


def test_a_folder_that_cannot_be_listed(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be seen has not been taken away."""
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path) == str(models / "a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert sync(catalog).side_files == {}
    assert origins(harbour(catalog)) == ["civitai"]


def test_two_models_of_one_name(catalog: Catalog, models: Path) -> None:
    """A side file that may be of either of two models stands beside both, and its digests are claimed of neither."""
    put(models / "a" / "harbour.pt", lora(5))
    put(models / "a" / "harbour.sha256", build.SHA256.encode())
    sync(catalog)
    found = catalog.entries(Query(text="harbour"))
    assert len(found) == 2
    for entry in found:
        detail = catalog.show(f"#{entry.id}")
        assert {"civitai", "checksum"} <= set(origins(detail))
        assert detail.previews
    assert sync(catalog).side_files == {}


def test_hard_link(catalog: Catalog, models: Path) -> None:
    """One content at two places has the side files of both."""
    os.link(models / "a" / "harbour.safetensors", models / "b" / "harbour copy.safetensors")
    put(models / "b" / "harbour copy.json", packed(build.A1111))
    sync(catalog)
    assert sorted(origins(harbour(catalog))) == ["a1111", "civitai"]
    assert sync(catalog).side_files == {}


@pytest.mark.parametrize("links", [True, False])
def test_links(tmp_path: Path, catalog: Catalog, links: bool) -> None:
    """A side file that is a link is read where the library follows links; a folder or a pipe of its name never is."""
    folder = tmp_path / "models"
    put(folder / "m.safetensors", lora(1))
    put(tmp_path / "elsewhere.json", packed(build.A1111))
    os.symlink(tmp_path / "elsewhere.json", folder / "m.json")
    os.mkdir(folder / "m.png")
    os.mkfifo(folder / "m.civitai.info")
    os.symlink(tmp_path / "nowhere", folder / "m.txt")
    add_library(catalog, str(folder), follow_links=links)
    sync(catalog)
    assert origins(catalog.show("m")) == (["a1111"] if links else [])


def test_bad_side_files_are_notes(catalog: Catalog, models: Path) -> None:
    """A side file that cannot be understood is kept with what is wrong with it, and the sync goes on."""
    put(models / "b" / "plain.metadata.json", b"[" * 100_000)
    put(models / "b" / "plain.png", b"<html>")
    put(models / "b" / "plain.json", packed({"description": "\ud800 \x00 ../../etc/passwd"}))
    assert sync(catalog).unread == ()
    detail = catalog.show("plain")
    problems = {claim.origin: claim.problem for claim in detail.claims if claim.path}
    assert problems["lora-manager"] == "it is nested too deeply"
    assert problems["picture"] == "it is no picture or film"
    assert problems["a1111"] is None
    assert detail.previews == ()


def test_an_interrupted_sync(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that ends while side files are written down is completed by the next one."""
    for number in range(12):
        put(models / "d" / f"m{number}.safetensors", lora(100 + number))
        put(models / "d" / f"m{number}.json", packed(build.A1111))
    with monkeypatch.context() as patch:
        patch.setattr("modelhub.syncing.side_files.BATCH", 5)
        real, written = catalog.side_files.write, []

        def write(batch: object) -> None:
            if len(written) == 1:
                raise KeyboardInterrupt
            written.append(batch)
            real(batch)  # type: ignore[arg-type]

        patch.setattr(catalog.side_files, "write", write)
        with pytest.raises(KeyboardInterrupt):
            sync(catalog)
    assert sync(catalog).side_files == {"added": 7}
    assert all(catalog.show(f"m{number}").triggers for number in range(12))


def test_merged(catalog: Catalog, models: Path) -> None:
    """Two records that turn out to be the same bytes have the side files of both, and nothing is in two."""
    put(models / "e" / "other.safetensors", lora(1))
    put(models / "e" / "other.json", packed(build.A1111))
    sync(catalog)
    list(hash_files(catalog))
    detail = catalog.show("other.safetensors")
    assert sorted(origins(detail)) == ["a1111", "civitai"]
    assert set(detail.triggers) == {"harbour at dusk", "watercolour", "water, colour"}
    assert sync(catalog).side_files == {}
    assert catalog.upkeep.faults() == []


def test_images_are_hashed_when_asked(catalog: Catalog, models: Path) -> None:
    """A picture's digest is computed with its model's, and again when it has changed."""
    hash_images(catalog, ["harbour"])
    first = harbour(catalog).previews[0].sha256
    assert first is not None
    assert len(first) == 64
    put(models / "a" / "harbour.preview.png", build.PNG)
    sync(catalog)
    assert harbour(catalog).previews[0].sha256 is None
    hash_images(catalog)
    assert harbour(catalog).previews[0].sha256 not in (None, first)


def test_no_stats_for_folders_without(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without side files costs no query by path and no stat but its models'."""
    for number in range(5):
        put(tmp_path / "models" / f"m{number}.safetensors", lora(number))
    put(tmp_path / "models" / "README.md", b"x")
    add_library(catalog, str(tmp_path / "models"))
    sync(catalog)
    looked_at: list[str] = []
    real = os.stat
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path, **more: looked_at.append(os.fspath(path)) or real(path, **more))
        sync(catalog)
    assert [path for path in looked_at if not os.path.isdir(path)] == []


def test_a_library_that_is_removed(catalog: Catalog, models: Path) -> None:
    """What was claimed stays with the records of a folder that is followed no longer."""
    catalog.libraries.remove(str(models))
    assert origins(harbour(catalog)) == ["civitai"]
    assert catalog.upkeep.faults() == []
    add_library(catalog, str(models))
    sync(catalog)
    assert [claim.ended for claim in harbour(catalog).claims if claim.origin == "civitai"] == [None]


def test_as_json(catalog: Catalog, models: Path) -> None:
    """Everything that is shown is plain JSON."""
    document = json.loads(json.dumps(harbour(catalog).as_dict()))
    assert document["claims"][0]["facts"]["triggers"] == ["harbour at dusk", "water, colour"]
    assert document["previews"][0]["media_type"] == "image/webp"


def test_a_configuration_that_changes(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose configuration beside it comes, changes or goes is told anew by it, and is not opened for that."""
    folder = tmp_path / "models"
    put(folder / "m.safetensors", zeros(layouts.checkpoint("sd-1", width=1 / 64), {}))
    add_library(catalog, str(folder))
    sync(catalog)
    assert catalog.show("m").entry.prediction_type == "epsilon"
    real, opened, told = os.open, [], []

    def noted(path: str, *args: int, **options: int) -> int:
        opened.append(path)
        return real(path, *args, **options)

    for text in ("parameterization: v", "parameterization: eps", None):
        if text is None:
            (folder / "m.yaml").unlink()
        else:
            put(folder / "m.yaml", f"model:\n  params:\n    {text}\n".encode())
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", noted)
            sync(catalog)
        told.append(catalog.show("m").entry.prediction_type)
    assert told == ["v_prediction", "epsilon", "epsilon"]
    assert str(folder / "m.yaml") in opened
    assert str(folder / "m.safetensors") not in opened
    assert "m.yaml" not in str(catalog.show("m").identification)
