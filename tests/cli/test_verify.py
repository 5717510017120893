"""``modelhub verify``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.run import modelhub

Make = Callable[..., None]


def test_the_exit_code_says_whether_it_is_the_same(make: Make) -> None:
    """0 where all is the same, 1 where something differs, 2 where there is nothing to compare it with."""
    make("safe.pt")
    assert modelhub("convert", "--receipt", "safe.pt").code == 0
    ran = modelhub("verify", "safe.safetensors")
    assert (ran.code, ran.out) == (0, "verified  safe.safetensors  with safe.safetensors.receipt.json\n")
    assert modelhub("verify", "safe.safetensors", "--source", "safe.pt").code == 0
    data = bytearray(Path("safe.safetensors").read_bytes())
    data[-1] ^= 1
    Path("safe.safetensors").write_bytes(data)
    ran = modelhub("verify", "safe.safetensors")
    assert ran.code == 1
    assert "the bytes of tensor 'first.weight' are not those in the receipt" in ran.out
    Path("safe.safetensors.receipt.json").unlink()
    ran = modelhub("verify", "safe.safetensors")
    assert (ran.code, ran.out) == (2, "")
    assert "hint: --source" in ran.err


def test_a_safetensors_file_is_compared_with_another(make: Make) -> None:
    """Without a receipt SRC may be safetensors, too: the tensors count, not their order or the metadata."""
    make("safe.pt")
    modelhub("convert", "safe.pt")
    modelhub("convert", "safe.pt", "other.safetensors", "--align", "64", "--add-metadata", "a=b")
    assert modelhub("verify", "other.safetensors", "--source", "safe.safetensors").code == 0
    modelhub("convert", "safe.pt", "less.safetensors", "--include", "*.bias")
    ran = modelhub("verify", "less.safetensors", "--source", "safe.safetensors")
    assert ran.code == 1
    assert "tensor 'first.weight' is not there" in ran.out


def test_json(make: Make) -> None:
    """Programs get every difference as a sentence."""
    make("safe.pt")
    modelhub("convert", "safe.pt")
    document = modelhub("verify", "safe.safetensors", "--source", "safe.pt", "--format", "json").json()
    assert document["schema"] == "modelhub.verify/1"
    (report,) = document["reports"]
    assert report == {
        "target": "safe.safetensors",
        "receipt": None,
        "source": "safe.pt",
        "same": True,
        "differences": [],
    }


def test_inspect_tells_the_content_digest(make: Make) -> None:
    """A checkpoint and its conversion are the same model, and say so; unasked, no tensor is read for it."""
    make("safe.pt")
    modelhub("convert", "safe.pt")
    ran = modelhub("inspect", "--content-digest", "--format", "jsonl", "safe.pt", "safe.safetensors")
    first, second = (report["content_digest"]["sha256"] for report in ran.json_lines())
    assert first == second
    assert f"content digest  sha256:{first}" in modelhub("inspect", "--content-digest", "safe.pt").out
    assert "content_digest" not in modelhub("inspect", "--format", "json", "safe.pt").json()["reports"][0]
