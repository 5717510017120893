"""Diffusers folders: their files, their configuration, and what in them would load code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from modelhub.container import open_path
from modelhub.errors import SourceError
from tests.container.build import hostile, rules, saved

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small pipeline as diffusers saves one."""
    root = tmp_path / "pipeline"
    for name in ("unet", "vae", "text_encoder", "scheduler", "tokenizer"):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps({"_class_name": name}))
    (root / "model_index.json").write_text(json.dumps(INDEX))
    (root / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.torch.save({"a": torch.ones(2)}))
    (root / "vae" / "diffusion_pytorch_model.bin").write_bytes(saved({"b": torch.ones(3)}))
    (root / "tokenizer" / "vocab.json").write_text("{}")
    (root / "tokenizer" / "merges.txt").write_text("a b")
    (root / "README.md").write_text("hello")
    return root


def test_a_sound_pipeline(folder):
    """Every model file is opened by its relative path, every configuration parsed, and nothing is odd."""
    with open_path(folder) as container:
        assert container.kind == "diffusers-folder"
        assert container.source is None and container.name == str(folder)
        assert container.anomalies == () and container.skipped == ()
        assert {name: part.kind for name, part in container.parts.items()} == {
            "unet/diffusion_pytorch_model.safetensors": "safetensors",
            "vae/diffusion_pytorch_model.bin": "torch-zip",
        }
        assert container.configs["model_index.json"] == INDEX
        assert container.configs["unet/config.json"] == {"_class_name": "unet"}
        assert "tokenizer/vocab.json" not in container.configs
        assert [name for name, _ in container.files()] == sorted(container.parts)


def test_files_are_closed(folder):
    """Leaving the block closes every file of the folder."""
    with open_path(folder) as container:
        sources = [part.source for part in container.parts.values()]
        assert all(source.read_at(0, 1) for source in sources)
    for source in sources:
        with pytest.raises((SourceError, OSError)):
            source.read_at(0, 1)


def test_hostile_part(folder):
    """A pickle among the parts is traced like any other file."""
    (folder / "unet" / "extra.bin").write_bytes(hostile())
    with open_path(folder) as container:
        part = container.parts["unet/extra.bin"]
        assert part.kind == "pickle"
        assert [each.name for each in part.pickles[0].trace.imports] == ["mkdir"]


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("unet/model.py", "pass", "folder.custom-code"),
        ("unet/config.json", json.dumps({"auto_map": {"AutoModel": "model.Net"}}), "folder.remote-code"),
        ("model_index.json", json.dumps({**INDEX, "_class_name": ["my_pipeline", "Mine"]}), "folder.custom-pipeline"),
        ("model_index.json", json.dumps({**INDEX, "unet": ["my_unet", "Net"]}), "folder.custom-pipeline"),
        ("model_index.json", json.dumps({**INDEX, "unet": ["diffusers_modules.local", "N"]}), "folder.custom-pipeline"),
        ("model_index.json", json.dumps({**INDEX, "unet": [["os"], "system"]}), "folder.custom-pipeline"),
        ("vae/config.json", "{", "folder.bad-json"),
        ("vae/config.json", "[" * 100_000, "folder.bad-json"),
    ],
)
def test_foreign_code_and_broken_configuration(folder, name, content, rule):
    """Code in the folder, configuration that asks for code, and configuration that cannot be read are told."""
    (folder / name).write_text(content)
    with open_path(folder) as container:
        assert rules(container) == {rule}
        assert container.anomalies[0].member == name


def test_links_that_leave_the_folder(folder, tmp_path):
    """A link to a file outside is told, and the file that a loader would load is opened all the same."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(hostile())
    os.symlink(outside, folder / "unet" / "linked.bin")
    os.symlink(tmp_path, folder / "vae" / "linked")
    os.symlink(tmp_path / "nothing", folder / "vae" / "dangling.bin")
    with open_path(folder) as container:
        assert rules(container) == {"folder.link"}
        assert {odd.member for odd in container.anomalies} == {"unet/linked.bin", "vae/linked", "vae/dangling.bin"}
        assert container.parts["unet/linked.bin"].kind == "pickle"
        assert {skip.member for skip in container.skipped} == {"vae/linked", "vae/dangling.bin"}


def test_snapshots_of_the_hugging_face_cache(folder, tmp_path):
    """A snapshot's links into the blobs beside it are how the cache is made, and nothing odd."""
    repository = tmp_path / "models--a--b"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / "0123"
    os.rename(folder, snapshot)
    model = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    os.rename(model, repository / "blobs" / "abcd")
    os.symlink("../../../blobs/abcd", model)
    with open_path(snapshot) as container:
        assert container.anomalies == ()
        assert container.parts["unet/diffusion_pytorch_model.safetensors"].kind == "safetensors"


def test_large_configuration_is_not_read(folder):
    """A JSON file beyond any configuration's size is skipped, and said to be."""
    (folder / "vae" / "config.json").write_text(json.dumps({"a": "x" * (5 << 20)}))
    with open_path(folder) as container:
        assert "vae/config.json" not in container.configs
        assert {skip.member for skip in container.skipped} == {"vae/config.json"}


@pytest.mark.parametrize("name", ["unet/notes.txt", "vae/preview.png", "extra", "tokenizer/merges.txt.bak", "a.CKPT"])
def test_pickles_under_any_name(folder, name):
    """A file that can be loaded is opened whatever its name is; texts and pictures are let be."""
    for protocol in (0, 2, 4):
        (folder / name).write_bytes(hostile(protocol))
        with open_path(folder) as container:
            assert container.parts[name].kind == "pickle"
            assert [each.name for each in container.parts[name].pickles[0].trace.imports] == ["mkdir"]


def test_other_files_are_let_be(folder):
    """Pictures, texts and empty files beside the models are neither parts nor odd."""
    (folder / "preview.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (folder / "LICENSE").write_text("do what you want")
    (folder / "empty").write_bytes(b"")
    with open_path(folder) as container:
        assert container.anomalies == () and container.skipped == ()
        assert len(container.parts) == 2


@pytest.mark.parametrize("name", ["unet/modeling.PY", "unet/modeling.cpython-311.pyc", "ops.so", "ops.pyd", "x.dll"])
def test_code_of_any_form_is_told(folder, name):
    """Compiled Python and machine code are code too."""
    (folder / name).write_bytes(b"\xa7\r\r\n" + bytes(40))
    with open_path(folder) as container:
        assert [(odd.rule, odd.member) for odd in container.anomalies] == [("folder.custom-code", name)]


def test_a_component_may_have_a_hidden_name(folder):
    """A folder whose name begins with a dot is looked into, unless it is one that tools keep their own files in."""
    for name in (".unet", ".git", ".cache"):
        (folder / name).mkdir()
        (folder / name / "model.bin").write_bytes(hostile())
    with open_path(folder) as container:
        assert ".unet/model.bin" in container.parts
        assert not [part for part in container.parts if part.startswith((".git", ".cache"))]
