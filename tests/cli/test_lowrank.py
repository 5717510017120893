"""``modelhub extract`` and ``modelhub resize``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.run import modelhub
from tests.merge.build import base_weights

TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``base.safetensors``, a small SD 1, and ``tuned.safetensors``, of which one matrix differs."""
    monkeypatch.chdir(tmp_path)
    weights = base_weights("sd-1")
    save_file(weights, "base.safetensors", {"format": "pt"})
    change = torch.randn(weights[TO_K].shape, generator=torch.Generator().manual_seed(2)) * 0.2
    save_file(weights | {TO_K: (weights[TO_K] + change).half()}, "tuned.safetensors", {"format": "pt"})


@pytest.mark.usefixtures("files")
def test_extract_then_resize() -> None:
    """A LoRA is extracted, resized, and both are steps in the catalog that lead back to the models."""
    catalog = ("--catalog", "c.db")
    ran = modelhub(
        "extract", "tuned.safetensors", "base.safetensors", "-o", "lora.safetensors", "--rank", "4", *catalog
    )
    assert ran.code == 0, ran.err
    assert "1 module, rank 4" in ran.out and "of the energy kept" in ran.out
    assert "most of the change" not in ran.out
    assert load_file("lora.safetensors")[f"{MODULE}.lora_down.weight"].shape == (4, 768)
    arguments = ("resize", "lora.safetensors", "-o", "small.safetensors", "--dynamic", "sv_fro=0.7", *catalog)
    ran = modelhub(*arguments, "--format", "json")
    assert ran.code == 0, ran.err
    (report,) = ran.json()["reports"]
    (module,) = report["modules"]
    assert module["before"] == 4 and module["rank"] < 4 and 0.49 <= module["energy"] < 1
    assert (
        modelhub(
            "intake", "tuned.safetensors", "base.safetensors", "lora.safetensors", "small.safetensors", *catalog
        ).code
        == 0
    )
    assert modelhub("show", "lora", *catalog).out.count("made from  ") == 2
    assert "made from  lora" in modelhub("show", "small", *catalog).out


@pytest.mark.usefixtures("files")
def test_plans_need_no_output() -> None:
    """--dry-run tells the modules without -o; without it -o is missing."""
    models = ("tuned.safetensors", "base.safetensors")
    ran = modelhub("extract", *models, "--dry-run")
    assert ran.code == 0 and ran.out.startswith("would extract  tuned.safetensors less base.safetensors")
    assert "Missing option '-o'" in modelhub("extract", *models).err
    ran = modelhub("extract", *models, "--exact", "--rank", "1", "-o", "lora.safetensors")
    assert ran.code == 0 and "most of the change is left out" in ran.out
    ran = modelhub("resize", "lora.safetensors", "--dry-run", "--format", "json")
    (report,) = ran.json()["reports"]
    assert ran.code == 0 and report["target"] is None
    assert "Missing option '-o'" in modelhub("resize", "lora.safetensors").err


@pytest.mark.usefixtures("files")
def test_dry_runs() -> None:
    """--dry-run tells the modules and writes nothing."""
    ran = modelhub("extract", "tuned.safetensors", "base.safetensors", "-o", "lora.safetensors", "--dry-run", "-v")
    assert ran.code == 0 and MODULE in ran.out and not Path("lora.safetensors").exists()
    assert modelhub("extract", "tuned.safetensors", "base.safetensors", "-o", "lora.safetensors").code == 0
    ran = modelhub("resize", "lora.safetensors", "-o", "small.safetensors", "--dry-run", "-v")
    assert ran.code == 0 and MODULE in ran.out and not Path("small.safetensors").exists()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("extract", "base.safetensors", "base.safetensors"), "in no module"),
        (("extract", "tuned.safetensors", "gone.safetensors"), "gone.safetensors: no such file"),
        (("extract", "tuned.safetensors", "base.safetensors", "--dynamic", "sv_fro"), "is no rule for ranks"),
        (("extract", "tuned.safetensors", "base.safetensors", "--rank", "0"), "--rank"),
        (("resize", "base.safetensors"), "no module of LoRA"),
    ],
)
def test_errors_are_a_sentence(arguments: tuple[str, ...], told: str) -> None:
    """What cannot be done ends with 2 and one sentence, and nothing is written."""
    ran = modelhub(*arguments, "-o", "out.safetensors")
    assert ran.code == 2
    assert told in ran.err
    assert not [path for path in Path().iterdir() if "out" in path.name]
