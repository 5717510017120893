"""``modelhub blend``."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

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
