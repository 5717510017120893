"""``modelhub blend``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.blend.test_blend import other
from tests.cli.run import modelhub
from tests.merge.build import base_weights


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``a.safetensors`` and ``b.safetensors``, small models of SD 1."""
    monkeypatch.chdir(tmp_path)
    weights = base_weights("sd-1")
    save_file(weights, "a.safetensors", {"format": "pt"})
    save_file(other(weights, 1), "b.safetensors", {"format": "pt"})


@pytest.mark.usefixtures("files")
def test_blend_recipe_and_catalog() -> None:
    """A blend says what it did, writes its recipe, which does it again, and is a step in the catalog."""
    row = ",".join(["0.5"] * 26)
    catalog = ("--catalog", "c.db")
    ran = modelhub(
        "blend", "a.safetensors", "b.safetensors", "--alpha", "0.3,vae=0", "--block-weights", row,
        "-o", "out.safetensors", "--verify", "2", *catalog,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "of the weights' norm" in ran.out and "computed again in float64" in ran.out
    again = modelhub("blend", "--recipe", "out.safetensors.recipe.toml", "-o", "again.safetensors", "--format", "json")
    assert again.code == 0, again.err
    (report,) = again.json()["reports"]
    assert report["done"] and report["method"] == "weighted"
    assert Path("again.safetensors").read_bytes() == Path("out.safetensors").read_bytes()
    assert modelhub("intake", "a.safetensors", "b.safetensors", "out.safetensors", *catalog).code == 0
    assert modelhub("show", "out", *catalog).out.count("made from  ") == 2
    assert "made into  out" in modelhub("show", "b.safetensors", *catalog).out


@pytest.mark.usefixtures("files")
def test_dry_run() -> None:
    """--dry-run tells every tensor and its ratio, and writes nothing."""
    arguments = ("blend", "a.safetensors", "b.safetensors", "--alpha", "0.25", "-o", "out.safetensors", "--dry-run")
    ran = modelhub(*arguments, "-v")
    assert ran.code == 0
    assert "first_stage_model.decoder.conv_in.weight  0.25" in ran.out
    (report,) = modelhub(*arguments, "--format", "json").json()["reports"]
    assert not report["done"] and {change["alpha"] for change in report["changes"]} == {0.25}
    assert not Path("out.safetensors").exists()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("method", ["weighted", "slerp"])
def test_what_is_the_same_in_both_is_not_swallowed(method: str) -> None:
    """Tensors that A and B have alike are counted as such, and not as a change that rounding took."""
    weights = load_file("a.safetensors")
    name = "model.diffusion_model.time_embed.0.weight"
    save_file(weights | {name: weights[name] * 2}, "one.safetensors", {"format": "pt"})
    arguments = ("blend", "a.safetensors", "one.safetensors", "--method", method, "-o", "out.safetensors")
    ran = modelhub(*arguments, "--format", "json", "--report", "r.json")
    (report,) = json.loads(Path("r.json").read_text())["reports"]
    assert ran.code == 0 and report["unchanged_share"] < 0.1 and 0.4 < report["relative_change"] < 0.6
    ran = modelhub(*arguments, "--force")
    assert ran.code == 0 and "swallows" not in ran.out
    assert f"{report['changed_tensors'] - 1:,} with the same" in ran.out


@pytest.mark.usefixtures("files")
def test_a_recipe_names_its_output() -> None:
    """Without -o a plan is told, and a recipe's own output is written; its recipe stays as it is."""
    arguments = ("blend", "a.safetensors", "b.safetensors", "--alpha", "0.25")
    ran = modelhub(*arguments, "--dry-run")
    assert ran.code == 0 and ran.out.startswith("would blend")
    assert "Missing option '-o'" in modelhub(*arguments).err
    assert modelhub(*arguments, "-o", "out.safetensors").code == 0
    made, beside = Path("out.safetensors").read_bytes(), Path("out.safetensors.recipe.toml")
    ran = modelhub("blend", "--recipe", str(beside))
    assert ran.code == 2 and "out.safetensors: exists already" in ran.err
    Path("out.safetensors").unlink()
    beside.write_text(f"# mine\n{beside.read_text()}")
    assert modelhub("blend", "--recipe", str(beside)).code == 0
    assert Path("out.safetensors").read_bytes() == made and beside.read_text().startswith("# mine")
    Path("named.toml").write_text(f'output = "sub.safetensors"\n{beside.read_text()}')
    assert modelhub("blend", "--recipe", "named.toml").code == 0
    assert Path("sub.safetensors").read_bytes() == made


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a.safetensors",), "Two or three models"),
        (("a.safetensors", "b.safetensors", "--method", "add-difference"), "blends 3 models, not 2"),
        (("a.safetensors", "gone.safetensors"), "gone.safetensors: no such file"),
        (("a.safetensors", "b.safetensors", "--alpha", "much"), "is no weight"),
        (("a.safetensors", "b.safetensors", "--block-weights", "1,2"), "2 block weights"),
        (("a.safetensors", "b.safetensors", "--device", "cuda:99"), "cannot be used"),
        (("a.safetensors", "b.safetensors", "--device", "fast"), "is no device"),
        (("a.safetensors", "--recipe", "x.toml"), "leave out the models"),
        (("--recipe", "x.toml", "--method", "weighted"), "leave out the models, the method"),
        (("--recipe", "x.toml", "--dtype", "keep"), "leave out --dtype"),
        (("--recipe", "x.toml", "--exact"), "leave out --dtype"),
        (("--recipe", "x.toml", "--stochastic-rounding", "0"), "leave out --dtype"),
        (("a.safetensors", "b.safetensors", "--method", "slerp", "--beta", "0.5"), "slerp of 2 models has no beta"),
    ],
)
def test_errors_are_a_sentence(arguments: tuple[str, ...], told: str) -> None:
    """What cannot be blended ends with 2 and one sentence, and nothing is written."""
    ran = modelhub("blend", *arguments, "-o", "out.safetensors")
    assert ran.code == 2
    assert told in ran.err
    assert not [path for path in Path().iterdir() if "out" in path.name]
