"""``modelhub demo``."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest

from modelhub.samples import library, runnable
from tests.cli.run import modelhub


@pytest.mark.usefixtures("worker_within")
def test_everything_comes_out_as_labelled() -> None:
    """The demo ends with 0, leaves everything inside its own folder and runs no payload."""
    ran = modelhub("demo")
    assert ran.code == 0, ran.err
    assert "all as labelled" in ran.err
    assert os.listdir() == ["modelhub-demo"]
    assert [path for path in Path(os.environ["HOME"]).rglob("*") if path.is_file()] == []
    assert not list(Path().rglob("PAYLOAD*"))
    assert Path("modelhub-demo/library/checkpoint/sd-1/harbour-v1.safetensors").is_file()
    listed = modelhub("list", "--catalog", "modelhub-demo/catalog.db", "--format", "jsonl").json_lines()
    assert len(listed) > 13
    assert "running 2 small models" in ran.err
    assert [each.split()[0] for each in ran.out.splitlines() if "/runnable/" in each] == ["passed", "failed"]
    page = Path("modelhub-demo/smoke.html").read_text()
    assert page.count("<article") == page.count("data:image/png;base64,") == 2


def test_without_the_libraries_no_model_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where diffusers is not installed, the demo says that no model was run and why, and ends with 0; run again, it
    would tell of a file that comes out otherwise than labelled, and not end with 0."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "diffusers" else real(name, *rest)
    )
    ran = modelhub("demo")
    assert ran.code == 0, ran.err
    assert "no model was run: diffusers is not installed" in ran.err
    assert not Path("modelhub-demo/smoke.html").exists()
    build = library.build_sample_library

    def mislabelled(directory: str) -> tuple[library.Sample, ...]:
        first, *rest = build(directory)
        return (dataclasses.replace(first, architecture="sdxl"), *rest)

    monkeypatch.setattr(library, "build_sample_library", mislabelled)
    again = modelhub("demo")
    assert again.code == 2
    assert again.err.count("came out as") == 1
    assert "came out as safe, checkpoint, sd-1, but is safe, checkpoint, sdxl" in again.err


@pytest.mark.usefixtures("worker_within")
def test_a_model_that_comes_out_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Was a model to fail and passes, or the other way round, the demo names it and does not end with 0."""

    def mislabelled(directory: str) -> tuple[tuple[str, str], ...]:
        path = Path(directory)
        path.mkdir(parents=True)
        return ((runnable.save(runnable.healthy_vae(), path / "vae.safetensors"), "failed"),)

    monkeypatch.setattr(runnable, "build_runnable_models", mislabelled)
    ran = modelhub("demo")
    assert ran.code == 2
    assert "vae.safetensors: came out as passed" in ran.err


def test_a_folder_of_the_user_is_refused() -> None:
    """A folder that holds anything but a demo is not touched."""
    Path("mine").mkdir()
    Path("mine/model.ckpt").write_bytes(b"precious")
    ran = modelhub("demo", "mine")
    assert ran.code == 2
    assert ran.err.startswith("error: mine: ")
    assert os.listdir("mine") == ["model.ckpt"]
