"""What stands beside a model is taken in with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from modelhub.db import Catalog
from modelhub.library import IntakeOptions, IntakeResult, intake
from modelhub.samples import layouts
from modelhub.syncing import add_library, sync
from tests.sidefiles import build
from tests.sidefiles.build import packed
from tests.syncing.files import lora, put, vae


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """A LoRA with a side file and a preview, and a checkpoint with a configuration, a picture and a checksum."""
    folder = tmp_path / "downloads"
    put(folder / "harbour.safetensors", lora(1))
    put(folder / "harbour.civitai.info", packed(build.CIVITAI))
    put(folder / "harbour.preview.png", build.WEBP)
    put(folder / "harbour.safetensors.rgthree-info.json", json.dumps({"name": "Harbour R", "file": "x"}).encode())
    put(folder / "harbours.png", build.WEBP)
    tensors = {name: torch.zeros(shape) for name, (_, shape) in layouts.vae(width=1 / 64).items()}
    torch.save(tensors, folder / "old.v1.ckpt")
    put(folder / "old.v1.png", build.WEBP)
    put(folder / "old.v1.sha256", b"0" * 64)
    return folder


def take(catalog: Catalog, folder: Path, library: Path | None = None, **options: bool) -> dict[str, IntakeResult]:
    asked = IntakeOptions(library=str(library) if library else None, **options)
    return {os.path.basename(each.path): each for each in intake([str(folder)], catalog, asked)}


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_claims_and_previews(catalog: Catalog, downloads: Path) -> None:
    """Intake takes down what the side files of a model claim, its previews, and beside what they stand."""
    results = take(catalog, downloads, convert=False)
    assert {name: result.beside for name, result in results.items()} == {"harbour.safetensors": 3, "old.v1.ckpt": 2}
    harbour = catalog.show("harbour")
    assert {claim.origin for claim in harbour.claims if claim.path} == {"civitai", "rgthree"}
    assert harbour.triggers[0] == "harbour at dusk"
    assert results["harbour.safetensors"].entry is not None
    assert results["harbour.safetensors"].entry.preview == str(downloads / "harbour.preview.png")


def test_into_the_library(catalog: Catalog, downloads: Path, tmp_path: Path) -> None:
    """What stands beside a model goes into the library with it, under its name there; originals stay as they are, and
    what tells of the original's bytes alone does not go with what it was converted to."""
    before = {path: path.read_bytes() for path in downloads.iterdir()}
    take(catalog, downloads, tmp_path / "library")
    assert {path: path.read_bytes() for path in downloads.iterdir()} == before
    assert names_below(tmp_path / "library") == [
        "lora/sd-1/harbour.civitai.info",
        "lora/sd-1/harbour.preview.png",
        "lora/sd-1/harbour.safetensors",
        "lora/sd-1/harbour.safetensors.rgthree-info.json",
        "vae/unknown/old.v1.png",
        "vae/unknown/old.v1.safetensors",
    ]
    copy = tmp_path / "library" / "lora" / "sd-1" / "harbour.preview.png"
    assert not copy.samefile(downloads / "harbour.preview.png")
    there = str(tmp_path / "library" / "vae" / "unknown" / "old.v1")
    assert [preview.path for preview in catalog.show(f"{there}.safetensors").previews] == [f"{there}.png"]


def test_nothing_there_is_overwritten(catalog: Catalog, downloads: Path, tmp_path: Path) -> None:
    """A file that stands beside the model's place in the library stays as it is."""
    own = tmp_path / "library" / "lora" / "sd-1" / "harbour.preview.png"
    put(own, b"mine")
    take(catalog, downloads, tmp_path / "library")
    assert own.read_bytes() == b"mine"


def test_a_dry_run_takes_nothing(catalog: Catalog, downloads: Path, tmp_path: Path) -> None:
    """A dry run copies no side file and writes none down."""
    take(catalog, downloads, tmp_path / "library", dry_run=True)
    assert not (tmp_path / "library").exists()
    assert catalog.entries() == []


def test_again(catalog: Catalog, downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads only side files that are new or changed, and forgets those that were taken away."""
    take(catalog, downloads, convert=False)
    (downloads / "harbour.civitai.info").unlink()
    put(downloads / "harbour.txt", b"about boats")
    read = []

    def noted(path: str, *args: object) -> object:
        read.append(os.path.basename(path))
        return real(path, *args)

    import modelhub.beside

    real = modelhub.beside.read_side_file
    monkeypatch.setattr(modelhub.beside, "read_side_file", noted)
    results = take(catalog, downloads, convert=False)
    assert results["harbour.safetensors"].action == "unchanged"
    assert read == ["harbour.txt"]
    assert {claim.origin for claim in catalog.show("harbour").claims if claim.path} == {"rgthree", "description"}


def test_then_a_library(catalog: Catalog, downloads: Path) -> None:
    """A library that comes to hold what was taken in knows its side files, and follows them."""
    take(catalog, downloads, convert=False)
    add_library(catalog, str(downloads))
    report = sync(catalog)
    assert (report.counts["unchanged"], report.side_files) == (2, {})
    (downloads / "harbour.civitai.info").unlink()
    assert sync(catalog).side_files == {"removed": 1}
    assert {claim.origin for claim in catalog.show("harbour").claims if claim.path} == {"rgthree"}


@pytest.mark.parametrize("name", ["pipe", "pipe.v2"])
def test_beside_a_folder(catalog: Catalog, tmp_path: Path, name: str) -> None:
    """What has the whole name of a folder that is one model stands beside it, at intake and in a library."""
    folder = tmp_path / "models"
    put(folder / name / "config.json", json.dumps({"_class_name": "AutoencoderKL"}).encode())
    put(folder / name / "diffusion_pytorch_model.safetensors", vae())
    put(folder / f"{name}.preview.png", build.WEBP)
    put(folder / f"{name}.civitai.info", packed(build.CIVITAI))
    put(folder / "pipe.txt", b"of the folder without dots")
    results = take(catalog, folder, tmp_path / "library")
    claims = {"civitai"} | ({"description"} if name == "pipe" else set())
    (record,) = catalog.entries()
    assert results[name].beside == 1 + len(claims)
    assert {claim.origin for claim in catalog.show(f"#{record.id}").claims if claim.path} == claims
    assert any(each.endswith(f"/{name}.preview.png") for each in names_below(tmp_path / "library"))
    add_library(catalog, str(folder))
    (folder / f"{name}.civitai.info").unlink()
    put(folder / f"{name}.png", build.WEBP)
    assert sync(catalog).side_files == {"added": 1, "removed": 1}
    assert str(folder / f"{name}.png") in [preview.path for preview in catalog.show(f"#{record.id}").previews]
