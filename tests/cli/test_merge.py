"""``modelhub merge``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelhub.errors import NoSpace
from modelhub.samples.layouts import lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from tests.cli.run import modelhub
from tests.merge.build import base_weights

LORA = """lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"""


RECIPE = """schema = "modelhub.recipe/1"
[base]
path = "base.safetensors"
[[adapter]]
path = "a.safetensors"
weight = 0.8
"""


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
    assert "made from  " in modelhub("show", "out", *catalog).out
    assert modelhub("intake", "base.safetensors", "a.safetensors", *catalog).code == 0
    shown = modelhub("show", "out.safetensors", *catalog).out
    assert shown.count("made from  ") == 2 and "base" in shown
    assert "made into  out" in modelhub("show", "a.safetensors", *catalog).out


@pytest.mark.usefixtures("files")
def test_a_family_tree() -> None:
    """'show' names the parents with their roles, and below each what that was made of; of the same bytes once."""
    catalog = ("--catalog", "c.db")
    for made in (
        ("merge", "base.safetensors", "--lora", "a.safetensors", "-o", "one.safetensors"),
        ("resize", "a.safetensors", "--rank", "1", "-o", "small.safetensors"),
        ("merge", "one.safetensors", "--lora", "small.safetensors", "-o", "two.safetensors"),
        ("blend", "one.safetensors", "two.safetensors", "-o", "three.safetensors"),
    ):
        ran = modelhub(*made, *catalog)
        assert ran.code == 0, ran.err
    files = [f"{name}.safetensors" for name in ("base", "a", "one", "two", "three", "small")]
    assert modelhub("intake", *files, *catalog).code == 0
    told = [line for line in modelhub("show", "three", *catalog).out.splitlines() if "made from" in line]
    assert [line.partition(", modelhub")[0].replace("made from  ", "") for line in told] == [
        "  one  (blend, as model A",
        "    base  (merge, as base",
        "    a  (merge, as adapter 1",
        "  two  (blend, as model B",
        "    one  (merge, as base",
        "    small  (merge, as adapter 1",
        "      a  (resize, as adapter",
    ]
    (record,) = json.loads(modelhub("show", "two", "--format", "json", *catalog).out)["records"]
    assert [parent["name"] for parent in record["parents"][0]["parents"]] == ["base", "a"]


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
def test_a_dry_run_needs_no_output() -> None:
    """A plan is told without -o, of a recipe too, which may name its output; without either nothing is written."""
    arguments = ("merge", "base.safetensors", "--lora", "a.safetensors")
    ran = modelhub(*arguments[:-1], "a.safetensors:0.5,te=0.4,IN01=0.2", "--dry-run")
    assert ran.code == 0 and ran.out.startswith("would merge  from base.safetensors")
    assert "with a.safetensors at 0.5 times te=0.4, IN01=0.2" in ran.out
    (report,) = modelhub(*arguments, "--dry-run", "--format", "json").json()["reports"]
    assert report["target"] is None
    ran = modelhub(*arguments)
    assert ran.code == 2 and "Missing option '-o'" in ran.err
    Path("mine.toml").write_text(RECIPE)
    (report,) = modelhub("merge", "--recipe", "mine.toml", "--dry-run", "--format", "json").json()["reports"]
    assert report["target"] is None
    assert "Missing option '-o'" in modelhub("merge", "--recipe", "mine.toml").err


@pytest.mark.usefixtures("files")
def test_a_recipe_names_its_output() -> None:
    """Without -o a recipe's own output is written, beside it, and nothing that exists is replaced without --force."""
    Path("deep").mkdir()
    Path("deep/mine.toml").write_text(
        'output = "out.safetensors"\n' + RECIPE.replace('"base', '"../base').replace('"a.', '"../a.')
    )
    ran = modelhub("merge", "--recipe", "deep/mine.toml", "--format", "json")
    assert ran.code == 0, ran.err
    (report,) = ran.json()["reports"]
    assert report["target"] == "deep/out.safetensors" and Path("deep/out.safetensors.recipe.toml").exists()
    ran = modelhub("merge", "--recipe", "deep/mine.toml")
    assert ran.code == 2 and "exists already" in ran.err
    Path("deep/out.safetensors.recipe.toml").unlink()
    before = Path("deep/out.safetensors").read_bytes()
    ran = modelhub("merge", "--recipe", "deep/mine.toml")
    assert ran.code == 2 and "deep/out.safetensors: exists already" in ran.err
    assert Path("deep/out.safetensors").read_bytes() == before
    assert modelhub("merge", "--recipe", "deep/mine.toml", "-o", "other.safetensors").code == 0
    assert Path("other.safetensors").read_bytes() == before


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "output", ["3", '""', '"."', '"../x"', "'a\\..\\..\\x'", "'C:x'", '"/tmp/x"', "'\\x'", "['x']"]
)
def test_a_recipe_names_no_place_elsewhere(output: str) -> None:
    """A recipe's output lies beside it: a name that leads anywhere else is refused, also with --force."""
    Path("deep").mkdir()
    Path("deep/mine.toml").write_text(f"output = {output}\n{RECIPE}")
    ran = modelhub("merge", "--recipe", "deep/mine.toml", "--force")
    assert ran.code == 2 and "output is the name of a file or folder beside the recipe" in ran.err


@pytest.mark.usefixtures("files")
def test_the_recipe_of_a_lost_output_makes_it_again() -> None:
    """OUT.recipe.toml alone makes OUT again where it lay, and stays as it is."""
    assert modelhub("merge", "base.safetensors", "--lora", "a.safetensors:0.8", "-o", "out.safetensors").code == 0
    made = Path("out.safetensors").read_bytes()
    beside = Path("out.safetensors.recipe.toml")
    beside.write_text(f"# mine\n{beside.read_text()}")
    kept = beside.read_text()
    ran = modelhub("merge", "--recipe", str(beside))
    assert ran.code == 2 and "out.safetensors: exists already" in ran.err
    Path("out.safetensors").unlink()
    ran = modelhub("merge", "--recipe", str(beside))
    assert ran.code == 0, ran.err
    assert Path("out.safetensors").read_bytes() == made
    assert beside.read_text() == kept


@pytest.mark.usefixtures("files")
def test_a_recipe_that_is_too_long_is_not_cut() -> None:
    """A recipe of more than 4 MiB is refused in a sentence, whatever its first part says."""
    Path("long.toml").write_text(RECIPE + "#" * (4 << 20))
    ran = modelhub("merge", "--recipe", "long.toml", "-o", "out.safetensors")
    assert ran.code == 2 and "long.toml: longer than a recipe is read" in ran.err
    assert not Path("out.safetensors").exists()


@pytest.mark.usefixtures("files")
def test_a_recipe_that_cannot_be_written() -> None:
    """Where the merge is done and its recipe cannot be written, the output stays, whole and with the recipe in its
    metadata, and the sentence that the command ends with says so."""
    name = "x" * 245
    ran = modelhub("merge", "base.safetensors", "--lora", "a.safetensors", "-o", name)
    assert ran.code == 2
    assert f"{name}.recipe.toml: cannot be written: File name too long; {name} is whole" in ran.err
    with safe_open(name, "pt") as file:
        assert "a.safetensors" in file.metadata()["modelhub.merge"]
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


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
        (("a.safetensors", "--lora", "a.safetensors"), "it is no model, but of the kind lora"),
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


@pytest.mark.usefixtures("files")
def test_an_output_without_its_recipe_is_a_step_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipe's place cannot be written the output stays, the catalog is told, and the command ends with 2."""
    Path("folder").mkdir()

    def full(path: str, data: bytes, *, force: bool) -> None:
        raise NoSpace(f"{path}: the disk is full")

    monkeypatch.setattr("modelhub.merge.writing.write_file", full)
    catalog = ("--catalog", "c.db")
    merged = ("merge", "base.safetensors", "--lora", "a.safetensors", "-o", "folder/merged.safetensors")
    blended = ("blend", "base.safetensors", "folder/merged.safetensors", "-o", "folder/blended.safetensors")
    for arguments in (merged, blended):
        ran = modelhub(*arguments, *catalog)
        assert ran.code == 2, ran.err
        assert "the disk is full; folder/" in ran.err and "is whole, and has the recipe in its metadata" in ran.err
    assert sorted(os.listdir("folder")) == ["blended.safetensors", "merged.safetensors"]
    assert modelhub("intake", "base.safetensors", "a.safetensors", "folder", *catalog).code == 0
    assert modelhub("show", "merged", *catalog).out.count("made from  ") == 2
    assert modelhub("show", "blended", *catalog).out.count("\n  made from  ") == 2
