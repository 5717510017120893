"""``modelhub convert``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from modelhub.samples.layouts import hypernetwork
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.wrappers import a1111_hypernetwork
from tests.cli.run import modelhub

Make = Callable[..., None]


def test_beside_the_source_by_default(make: Make) -> None:
    """Without DST the safetensors file lies beside the source, under its name, and the source is as it was."""
    make("safe.pt")
    before = Path("safe.pt").read_bytes()
    ran = modelhub("convert", "safe.pt")
    assert ran.code == 0
    assert "2 tensors" in ran.out
    assert {name: array.shape for name, array in load_file("safe.safetensors").items()} == {
        "first.weight": (4, 8),
        "first.bias": (4,),
    }
    assert Path("safe.pt").read_bytes() == before


def test_the_target_may_be_named_by_o(make: Make) -> None:
    """As with every command that makes a model, -o names it, and --report takes the answer; it is named once."""
    make("safe.pt")
    assert modelhub("convert", "safe.pt", "-o", "made.safetensors", "--report", "answer.txt").code == 0
    assert sorted(load_file("made.safetensors")) == ["first.bias", "first.weight"]
    assert "2 tensors" in Path("answer.txt").read_text()
    ran = modelhub("convert", "safe.pt", "one.safetensors", "-o", "other.safetensors")
    assert (ran.code, os.path.exists("one.safetensors")) == (2, False)
    assert "Name DST once" in ran.err


@pytest.mark.parametrize(
    ("name", "code"), [("unsafe.pt", 1), ("suspicious.pt", 1), ("truncated.pt", 2), ("junk.ckpt", 2), ("gone.pt", 2)]
)
def test_what_is_not_safe_is_refused(make: Make, name: str, code: int) -> None:
    """A suspicious or unsafe file is refused with 1, one that was not understood with 2; one sentence, no output."""
    if name != "gone.pt":
        make(name)
    ran = modelhub("convert", name, "out.safetensors")
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith(f"error: {name}: ")
    assert "Traceback" not in ran.err
    assert not os.path.exists("out.safetensors")


def test_salvage(make: Make) -> None:
    """--salvage copies the tensors of an unsafe file and ends with 0."""
    make("unsafe.pt")
    ran = modelhub("convert", "--salvage", "--format", "json", "unsafe.pt", "out.safetensors")
    assert ran.code == 0
    document = ran.json()
    assert document["schema"] == "modelhub.convert/1"
    (report,) = document["reports"]
    assert (report["target"], report["tensor_count"], report["done"]) == ("out.safetensors", 2, True)
    assert report["metadata"]["modelhub.salvaged"] == "true"
    assert sorted(load_file("out.safetensors")) == ["first.bias", "first.weight"]


def test_nothing_is_overwritten_unasked(make: Make) -> None:
    """An existing DST is left alone, with a hint at --force; with --force it is replaced."""
    make("safe.pt")
    Path("out.safetensors").write_text("mine")
    ran = modelhub("convert", "safe.pt", "out.safetensors")
    assert ran.code == 2
    assert "hint: pass --force" in ran.err
    assert Path("out.safetensors").read_text() == "mine"
    assert modelhub("convert", "--force", "safe.pt", "out.safetensors").code == 0
    assert load_file("out.safetensors")


def test_dry_run(make: Make) -> None:
    """--dry-run says what would be written, and writes nothing."""
    make("safe.pt")
    ran = modelhub("convert", "--dry-run", "safe.pt")
    assert ran.code == 0
    assert "would convert  safe.safetensors  from safe.pt" in ran.out
    (plan,) = modelhub("convert", "--dry-run", "--format", "jsonl", "safe.pt").json_lines()
    assert (plan["source"], plan["target"], plan["done"]) == ("safe.pt", "safe.safetensors", False)
    assert os.listdir() == ["safe.pt"]
    assert modelhub("convert", "safe.pt").code == 0
    assert os.path.getsize("safe.safetensors") == plan["size"]


def test_changes_on_the_way(make: Make) -> None:
    """Casts, added metadata and alignment are asked for by options and told in a line each."""
    make("safe.pt")
    ran = modelhub("convert", "safe.pt", "--dtype", "fp32", "--dtype", "*.bias=fp16", "--add-metadata", "a=b", "-v")
    assert ran.code == 0
    assert "tensors cast: 1 from F16 to F32, 1 from F32 to F16; 0 keep their type" in ran.out
    assert "metadata  a = b" in ran.out
    assert {name: str(array.dtype) for name, array in load_file("safe.safetensors").items()} == {
        "first.weight": "float32",
        "first.bias": "float16",
    }


def test_several_files_are_a_folder(make: Make) -> None:
    """Shards lie in a folder of the source's name, each named in the answer."""
    make("safe.pt")
    ran = modelhub("convert", "safe.pt", "--max-shard-size", "70B")
    assert ran.code == 0
    assert "converted  safe  from safe.pt" in ran.out
    assert sorted(os.listdir("safe")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert all(name in ran.out for name in os.listdir("safe"))


def test_in_place(make: Make) -> None:
    """A safetensors file is rewritten under its own name; a pickle is not."""
    make("safe.pt")
    assert modelhub("convert", "safe.pt").code == 0
    assert modelhub("convert", "safe.safetensors", "--in-place", "--dtype", "fp16").code == 0
    assert {str(array.dtype) for array in load_file("safe.safetensors").values()} == {"float16"}
    ran = modelhub("convert", "safe.pt", "--in-place", "--dtype", "fp16")
    assert (ran.code, ran.out) == (2, "")
    assert "hint: leave out --in-place" in ran.err


def test_jobs_are_for_several_files(make: Make) -> None:
    """An option that would do nothing is refused."""
    make("safe.pt")
    ran = modelhub("convert", "safe.pt", "--jobs", "2")
    assert ran.code == 2 and "--recursive" in ran.err
    assert os.listdir() == ["safe.pt"]


@pytest.mark.parametrize("text", ["", "<html>404</html>", "version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_model_is_refused_with_what_to_do(make: Make, text: str) -> None:
    """An empty file, a page and a pointer are downloads gone wrong; the hint says how to get the file."""
    Path("m.ckpt").write_text(text)
    ran = modelhub("convert", "m.ckpt")
    assert ran.code == 2 and "load" in ran.err.partition("hint: ")[2]


def test_the_source_is_deleted_on_request(make: Make) -> None:
    """--delete-source removes SRC once the output is there."""
    make("safe.pt")
    assert modelhub("convert", "safe.pt", "--delete-source").code == 0
    assert os.listdir() == ["safe.safetensors"]


@pytest.mark.parametrize(
    "options",
    [("--dtype", "fp12"), ("--max-shard-size", "many"), ("--add-metadata", "x"), ("--components", "unet,nothing")],
)
def test_wrong_wishes_are_one_sentence(make: Make, options: tuple[str, str]) -> None:
    """An option that cannot be understood ends with 2 and writes nothing."""
    make("safe.pt")
    ran = modelhub("convert", "safe.pt", *options)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert os.listdir() == ["safe.pt"]


def test_a_hypernetwork_comes_back(make: Make) -> None:
    """restore makes the .pt file of a converted hypernetwork again, and refuses other models."""
    write_torch_zip("hn.pt", a1111_hypernetwork("hn", hypernetwork()))
    assert modelhub("convert", "hn.pt", "hn.safetensors").code == 0
    ran = modelhub("restore", "hn.safetensors", "back.pt")
    assert ran.code == 0
    assert "converted  back.pt  from hn.safetensors" in ran.out
    assert modelhub("convert", "back.pt").code == 0
    assert Path("back.safetensors").read_bytes() == Path("hn.safetensors").read_bytes()
    (report,) = modelhub("restore", "hn.safetensors", "--force", "--format", "json").json()["reports"]
    assert (report["source"], report["target"], report["done"]) == ("hn.safetensors", "hn.pt", True)
    make("safe.pt")
    assert modelhub("convert", "safe.pt").code == 0
    ran = modelhub("restore", "safe.safetensors", "x.pt")
    assert (ran.code, ran.out) == (2, "")
    assert "is no hypernetwork's layer" in ran.err


def test_what_fails_among_many_says_what_to_do(make: Make) -> None:
    """The next step is told for each file of a folder, as for one alone."""
    make("safe.pt")
    Path("m.ckpt").write_text("<html>404</html>")
    ran = modelhub("convert", "-r", ".", "out")
    assert ran.code == 2
    assert "an HTML or XML page is not converted\n    download the file itself" in ran.out
    assert "1 converted, 1 failed" in ran.err
