"""``modelhub merge``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.samples.layouts import lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from tests.cli.run import modelhub
from tests.merge.build import base_weights

LORA = """lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``base.safetensors``, a small SD 1; ``a.safetensors``, a LoRA for it; ``xl.safetensors``, one for SDXL."""
    monkeypatch.chdir(tmp_path)
    weights = base_weights("sd-1")
    save_file(weights, "base.safetensors", {"format": "pt"})
    rows = weights["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape[0]
    save_file(
        {f"{LORA}.lora_up.weight": torch.ones(rows, 2), f"{LORA}.lora_down.weight": torch.ones(2, 768)}, "a.safetensors"
    )
    write_safetensors("xl.safetensors", random_weights(lora("sdxl", 1)))


@pytest.mark.usefixtures("files")
def test_merge_and_recipe() -> None:
    """A merge says what it did and writes its recipe, which makes the same file again."""
    ran = modelhub("merge", "base.safetensors", "--lora", "a.safetensors:0.8", "-o", "out.safetensors", "--verify", "1")
    assert ran.code == 0, ran.err
    assert "1 of them changed" in ran.out
    assert "of the weights' norm" in ran.out
    again = modelhub("merge", "--recipe", "out.safetensors.recipe.toml", "-o", "again.safetensors", "--format", "json")
    assert again.code == 0, again.err
    (report,) = again.json()["reports"]
    assert report["done"] and report["changed_tensors"] == 1
    assert report["adapters"][0]["weight"] == 0.8
    assert Path("again.safetensors").read_bytes() == Path("out.safetensors").read_bytes()


@pytest.mark.usefixtures("files")
def test_the_catalog_tells_what_an_output_was_made_of() -> None:
    """With a catalog the merge is a step there: 'show' names the base and the adapters, and their outputs."""
    catalog = ("--catalog", "c.db")
    ran = modelhub("merge", "base.safetensors", "--lora", "a.safetensors:0.8", "-o", "out.safetensors", *catalog)
    assert ran.code == 0, ran.err
    assert modelhub("intake", "base.safetensors", "a.safetensors", "out.safetensors", *catalog).code == 0
    shown = modelhub("show", "out", *catalog).out
    assert shown.count("made from  ") == 2 and "base" in shown
    assert "made into  out" in modelhub("show", "a.safetensors", *catalog).out


@pytest.mark.usefixtures("files")
def test_dry_run() -> None:
    """--dry-run tells every module and writes nothing."""
    arguments = ("merge", "base.safetensors", "--lora", "a.safetensors", "-o", "out.safetensors", "--dry-run")
    ran = modelhub(*arguments, "-v")
    assert ran.code == 0
    assert LORA in ran.out
    assert not Path("out.safetensors").exists()
    (report,) = modelhub(*arguments, "--format", "json").json()["reports"]
    assert not report["done"]
    assert [change["module"] for change in report["changes"]] == [LORA]


@pytest.mark.usefixtures("files")
def test_no_change_is_not_swallowed() -> None:
    """Of an alpha of 0 nothing is lost by rounding, and nothing of that kind is said."""
    tensors = load_file("a.safetensors")
    stems = {name.partition(".")[0] for name in tensors}
    save_file(tensors | {f"{stem}.alpha": torch.tensor(0.0) for stem in stems}, "none.safetensors")
    ran = modelhub("merge", "base.safetensors", "--lora", "none.safetensors", "-o", "out.safetensors")
    assert ran.code == 0
    assert "100.0% of" in ran.out and "swallows" not in ran.out


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("base.safetensors", "--lora", "xl.safetensors"), "an adapter for sdxl, and the base is sd-1"),
        (("base.safetensors", "--lora", "base.safetensors"), "it is no LoRA"),
        (("a.safetensors", "--lora", "a.safetensors"), "is no base to merge into"),
        (("base.safetensors", "--lora", "gone.safetensors"), "gone.safetensors: no such file"),
        (("base.safetensors", "--lora", "a.safetensors:unett=1"), "no component, no block and no pattern"),
        (("base.safetensors", "--lora", "a.safetensors:lbw=1/2"), "2 block weights"),
        (("base.safetensors",), "Missing BASE or --lora"),
        (("--recipe", "a.safetensors"), "not a recipe"),
        (("base.safetensors", "--recipe", "x.toml"), "leave out BASE"),
        (("--recipe", "x.toml", "--dtype", "fp16"), "leave out --dtype"),
        (("--recipe", "x.toml", "--exact"), "leave out --dtype"),
        (("--recipe", "x.toml", "--stochastic-rounding", "0"), "leave out --dtype"),
    ],
)
def test_errors_are_a_sentence(arguments: tuple[str, ...], told: str) -> None:
    """What cannot be merged ends with 2 and one sentence, and nothing is written."""
    ran = modelhub("merge", *arguments, "-o", "out.safetensors")
    assert ran.code == 2
    assert told in ran.err
    assert "Traceback" not in ran.err
    assert not [path for path in Path().iterdir() if "out" in path.name]


@pytest.mark.usefixtures("files")
def test_the_catalog_knows_folders_too() -> None:
    """A merge into a diffusers folder is a step in the catalog as well, of the folder as it is catalogued."""
    catalog = ("--catalog", "c.db")
    assert modelhub("convert", "base.safetensors", "folder", "--layout", "diffusers").code == 0
    ran = modelhub("merge", "folder", "--lora", "a.safetensors", "-o", "merged", *catalog)
    assert ran.code == 0, ran.err
    assert modelhub("intake", "folder", "a.safetensors", "merged", *catalog).code == 0
    shown = modelhub("show", "merged", *catalog).out
    assert shown.count("made from  ") == 2 and "made from  folder" in shown


@pytest.mark.usefixtures("files")
def test_a_device_that_is_not_there() -> None:
    """A GPU that torch does not have is one sentence, and nothing is written."""
    arguments = ("merge", "base.safetensors", "--lora", "a.safetensors", "-o", "out.safetensors")
    ran = modelhub(*arguments, "--device", "cuda:99")
    assert ran.code == 2 and "the device 'cuda:99' cannot be used" in ran.err
    assert not Path("out.safetensors").exists()
    assert modelhub(*arguments, "--device", "cpu").code == 0
