"""``modelhub convert``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

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
