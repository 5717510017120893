"""``modelhub inspect``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelhub.samples.layouts import lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from tests.cli.run import modelhub

Make = Callable[..., None]

FIELDS = [
    "path",
    "container",
    "kind",
    "architecture",
    "variant",
    "prediction_type",
    "precision",
    "components",
    "adapter",
    "evidence",
    "candidates",
    "metadata",
    "tensor_count",
    "parameter_count",
    "error",
    "notes",
]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["safe.pt"], 0),
        (["safe.pt", "safe.safetensors", "unsafe.pt"], 0),
        (["page.safetensors"], 2),
        (["junk.ckpt"], 2),
        (["empty.ckpt"], 2),
        (["truncated.pt"], 2),
        (["missing.pt"], 2),
        (["missing.pt", "safe.pt"], 2),
    ],
)
def test_exit_codes(make: Make, names: list[str], code: int) -> None:
    """0 when the tensors of every file could be told, else 2; safety is not asked about."""
    make(*(name for name in names if name != "missing.pt"))
    ran = modelhub("inspect", "--format", "json", *names)
    assert ran.code == code
    document = ran.json()
    assert document["complete"] is (code == 0)
    assert [report["path"] for report in document["reports"]] == names
    assert (code == 2) == any(report["error"] for report in document["reports"])
    assert modelhub("inspect", *names).code == code


def test_json_schema(make: Make) -> None:
    """Every report has exactly the fields that the schema names, null where something is not known."""
    make("safe.safetensors", "page.safetensors")
    ran = modelhub("inspect", "--format", "json", "safe.safetensors", "page.safetensors", "missing.pt")
    document = ran.json()
    assert list(document) == ["schema", "complete", "reports"]
    assert document["schema"] == "modelhub.inspect/1"
    for report in document["reports"]:
        assert list(report) == FIELDS
    plain, page, missing = document["reports"]
    assert (plain["container"], page["container"], missing["container"]) == ("safetensors", "html", None)
    assert plain["metadata"] == {"author": "me"}
    assert (plain["tensor_count"], plain["parameter_count"]) == (2, 36)
    assert (page["tensor_count"], missing["tensor_count"]) == (None, None)
    assert "no such file" in missing["error"]
    lines = modelhub("inspect", "--format", "jsonl", "safe.safetensors", "page.safetensors", "missing.pt")
    assert lines.json_lines() == document["reports"]


def test_an_adapter(make: Make) -> None:
    """A LoRA's identity has its dialect, rank, alpha and targets, and the evidence for what is said of it."""
    write_safetensors("style.safetensors", random_weights(lora("sd-1", rank=4), seed=1))
    (report,) = modelhub("inspect", "--format", "jsonl", "style.safetensors").json_lines()
    assert (report["kind"], report["architecture"], report["precision"]) == ("lora", "sd-1", "fp16")
    assert report["adapter"]["rank"] == 4
    assert report["adapter"]["ranks"] == {"4": report["adapter"]["modules"]}
    assert report["adapter"]["targets"] == ["unet", "text_encoder"]
    assert set(report["evidence"][0]) == {"fact", "value", "by", "detail", "confidence"}
    out = modelhub("inspect", "style.safetensors").out
    assert "rank 4" in out
    assert "evidence" not in out
    assert "kind = lora" in modelhub("inspect", "-v", "style.safetensors").out


def test_tensors(make: Make) -> None:
    """--tensors lists name, element type, shape and bytes of every tensor."""
    make("safe.pt")
    (report,) = modelhub("inspect", "--format", "jsonl", "--tensors", "safe.pt").json_lines()
    assert report["tensors"] == [
        {"name": "first.weight", "member": None, "dtype": "F16", "shape": [4, 8], "nbytes": 64},
        {"name": "first.bias", "member": None, "dtype": "F32", "shape": [4], "nbytes": 16},
    ]
    assert "first.weight  F16   4x8       64" in modelhub("inspect", "--tensors", "safe.pt").out


def test_metadata_cannot_steer_the_terminal() -> None:
    """What a file says about itself is shown harmlessly and, without -v, briefly."""
    metadata = {f"key{number}": "x" * 1000 for number in range(50)} | {"a\x1b[2J": "b\r\n\x07c"}
    write_safetensors("m.safetensors", random_weights(lora("sd-1", rank=1), seed=1), metadata)
    for options in ([], ["-v"]):
        out = modelhub("inspect", *options, "m.safetensors").out
        assert all(text.isprintable() for text in out.splitlines())
    assert len(modelhub("inspect", "m.safetensors").out) < 3000
    (report,) = modelhub("inspect", "--format", "jsonl", "m.safetensors").json_lines()
    assert report["metadata"] == metadata


def test_explain() -> None:
    """``--explain`` says what decided each fact and what came near, for people and in JSON."""
    write_safetensors("style.safetensors", random_weights(lora("sd-1", rank=4), seed=1))
    (report,) = modelhub("inspect", "--explain", "--format", "jsonl", "style.safetensors").json_lines()
    assert list(report) == [*FIELDS, "near_misses"]
    assert {miss["value"] for miss in report["near_misses"]} & {"sd-2", "sdxl"}
    assert set(report["near_misses"][0]) == {"value", "held", "conditions", "detail"}
    out = modelhub("inspect", "--explain", "style.safetensors").out
    assert "kind = lora" in out
    assert "not sd-2: " in out
