"""Digests of models that the catalog knows are taken from there, and those that it lacks are given to it."""

from __future__ import annotations

import hashlib
import importlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modelhub.convert.background import Stopped
from modelhub.source import Source
from tests.cli.run import Ran, modelhub
from tests.merge.build import base_weights

TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
BOTH = ["a.safetensors", "base.safetensors"]
CATALOG = ("--catalog", "c.db")
COMMANDS = {
    "merge": ("merge", "models/base.safetensors", "--lora", "models/a.safetensors"),
    "blend": ("blend", "models/base.safetensors", "models/tuned.safetensors"),
    "extract": ("extract", "models/tuned.safetensors", "models/base.safetensors"),
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The small SD 1 ``models/base.safetensors``, a tuned one beside it, a LoRA; and which files are read for their
    digests."""
    Path("models").mkdir()
    weights = base_weights("sd-1")
    save_file(weights, "models/base.safetensors", {"format": "pt"})
    change = torch.randn(weights[TO_K].shape, generator=torch.Generator().manual_seed(2)) * 0.2
    save_file(weights | {TO_K: (weights[TO_K] + change).half()}, "models/tuned.safetensors", {"format": "pt"})
    up, down = torch.ones(weights[TO_K].shape[0], 2), torch.ones(2, 768)
    save_file({f"{LORA}.lora_up.weight": up, f"{LORA}.lora_down.weight": down}, "models/a.safetensors")
    seen: list[str] = []
    digesting = importlib.import_module("modelhub.merge.digesting")
    compute = digesting._sha256

    def counted(source: Source, stopped: Stopped) -> str:
        seen.append(os.path.basename(source.name))
        sha256: str = compute(source, stopped)
        return sha256

    monkeypatch.setattr(digesting, "_sha256", counted)
    return seen


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _said(path: str) -> str:
    with safe_open(path, "pt") as file:
        return " ".join(file.metadata().values())


@pytest.mark.parametrize("command", COMMANDS)
def test_models_in_the_catalog_are_not_read_for_their_digests(command: str, read: list[str]) -> None:
    """What was taken in and has not changed since is told by the digest that the catalog computed; whatever changed is
    read."""
    assert modelhub("intake", "models", *CATALOG).code == 0
    ran = modelhub(*COMMANDS[command], "-o", "out.safetensors", *CATALOG)
    assert ran.code == 0, ran.err
    assert not read
    assert _sha256("models/base.safetensors") in _said("out.safetensors")
    st = os.stat("models/base.safetensors")
    os.utime("models/base.safetensors", ns=(st.st_atime_ns, st.st_mtime_ns + 1))
    ran = modelhub(*COMMANDS[command], "-o", "again.safetensors", *CATALOG)
    assert ran.code == 0, ran.err
    assert read == ["base.safetensors"]
    assert Path("again.safetensors").read_bytes() == Path("out.safetensors").read_bytes()


def test_a_recipes_digest_is_compared_with_the_catalogs(read: list[str]) -> None:
    """A recipe of another base is refused all the same, and one of this base carried out."""
    assert modelhub("intake", "models", *CATALOG).code == 0
    assert modelhub(*COMMANDS["merge"], "-o", "out.safetensors").code == 0
    recipe = Path("out.safetensors.recipe.toml")
    again = ("merge", "--recipe", "out.safetensors.recipe.toml", "-o", "again.safetensors", *CATALOG)
    read.clear()
    assert modelhub(*again).code == 0
    recipe.write_text(recipe.read_text().replace(_sha256("models/base.safetensors"), "0" * 64))
    ran = modelhub(*again, "--force")
    assert ran.code == 2 and "it is not the file of the recipe" in ran.err
    assert not read


def test_claims_are_no_digests(read: list[str]) -> None:
    """What a file beside the base says of its digest is not what was computed."""
    Path("models/base.safetensors.sha256").write_text(f"{'1' * 64}  base.safetensors\n")
    Path("models/base.civitai.info").write_text(f'{{"files": [{{"hashes": {{"SHA256": "{"1" * 64}"}}}}]}}')
    _follow()
    assert modelhub(*COMMANDS["merge"], "-o", "out.safetensors", *CATALOG).code == 0
    assert read == BOTH
    assert _sha256("models/base.safetensors") in _said("out.safetensors")


def test_the_catalog_learns_a_digest(read: list[str]) -> None:
    """What the catalog has only the header of is read once: the next merge finds the digests there."""
    _follow()
    assert modelhub(*COMMANDS["merge"], "-o", "out.safetensors", *CATALOG).code == 0
    assert modelhub(*COMMANDS["merge"], "-o", "again.safetensors", *CATALOG).code == 0
    assert read == BOTH
    assert _sha256("models/base.safetensors") in modelhub("show", "models/base.safetensors", *CATALOG).out
    shown = modelhub("show", "models/base.safetensors", *CATALOG)
    assert "made into" in shown.out


def test_the_catalog_of_the_settings_is_asked(read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --catalog it is the one that the settings name, if it can be asked; nothing is written there."""
    assert modelhub("intake", "models", *CATALOG).code == 0
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    assert modelhub(*COMMANDS["merge"], "-o", "out.safetensors").code == 0
    assert not read
    assert "made into" not in modelhub("show", "models/base.safetensors").out
    Path("broken.db").write_bytes(b"no database at all, and longer than a header of one has to be " * 20)
    monkeypatch.setenv("MODELHUB_CATALOG", "broken.db")
    ran = modelhub(*COMMANDS["merge"], "-o", "again.safetensors")
    assert ran.code == 0 and "digests are computed" in ran.err
    assert read == BOTH
    ran = modelhub(*COMMANDS["merge"], "-o", "third.safetensors", "--catalog", "broken.db")
    assert ran.code == 2 and not Path("third.safetensors").exists()


def _follow() -> Ran:
    ran = modelhub("library", "add", "models", *CATALOG)
    assert ran.code == 0, ran.err
    ran = modelhub("library", "sync", *CATALOG)
    assert ran.code == 0, ran.err
    return ran


def test_catalog_that_is_not_there(read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that name a catalog's file which does not exist yet: no database is loaded, digests are computed."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("there is nothing to open")

    monkeypatch.setattr("modelhub.commands.filters.open_settled_catalog", opened)
    monkeypatch.setenv("MODELHUB_CATALOG", "nowhere.db")
    assert modelhub(*COMMANDS["merge"], "-o", "out.safetensors").code == 0
    assert sorted(read) == BOTH


@pytest.mark.parametrize("folder", [False, True])
def test_an_output_in_a_followed_folder_is_known_at_once(read: list[str], folder: bool) -> None:
    """What is made with a catalog is shown with its parents at once, and after the next sync too, without a hash."""
    base, out = "models/base.safetensors", "models/out.safetensors"
    if folder:
        assert modelhub("convert", base, "--layout", "diffusers", "-o", "models/base").code == 0
        base, out = "models/base", "models/out"
    _follow()
    ran = modelhub("merge", base, "--lora", "models/a.safetensors", "-o", out, *CATALOG)
    assert ran.code == 0, ran.err
    assert modelhub("show", out, *CATALOG).out.count("made from") == 2
    assert modelhub("library", "sync", *CATALOG).code == 0
    assert modelhub("show", out, *CATALOG).out.count("made from") == 2


def test_an_adapter_in_its_folder_is_known_too(read: list[str]) -> None:
    """Where the folder of an adapter is named, the catalog is asked for the file in it."""
    Path("models/style").mkdir()
    Path("models/a.safetensors").rename("models/style/pytorch_lora_weights.safetensors")
    assert modelhub("intake", "models", *CATALOG).code == 0
    ran = modelhub("merge", "models/base.safetensors", "--lora", "models/style", "-o", "out.safetensors", *CATALOG)
    assert ran.code == 0, ran.err
    assert not read


def test_catalog_of_the_settings_below_the_home_folder(read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked; and what was named on the command line and cannot be one is refused before anything is merged."""
    monkeypatch.setenv("HOME", os.getcwd())
    assert modelhub("intake", "models/base.safetensors", "models/a.safetensors", *CATALOG).code == 0
    monkeypatch.setenv("MODELHUB_CATALOG", "~/c.db")
    assert modelhub(*COMMANDS["merge"], "-o", "out.safetensors").code == 0
    refused = modelhub(*COMMANDS["merge"], "-o", "other.safetensors", "--catalog", "c.txt")
    assert refused.code == 2
    assert "neither a database URL" in refused.err
    assert not Path("other.safetensors").exists()
    assert read == []
