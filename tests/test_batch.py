"""Many conversions: each checkpoint of a folder, none twice, and one bad file does not keep the others waiting."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelhub import batch, verdict_cache
from modelhub.batch import BatchRequest, convert_all
from modelhub.convert import NO_OPTIONS, ConversionOptions, dtype_rule
from modelhub.samples.pickling import Call, Import
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.tensors import DType
from tests.cli.run import modelhub

REQUEST = BatchRequest(NO_OPTIONS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A journal of the test's own, that does not mind how new a file is."""
    monkeypatch.setattr(verdict_cache, "SETTLED", 0)
    monkeypatch.setattr(batch, "cache_folder", lambda: str(tmp_path / "cache"))


@pytest.fixture
def shelf(tmp_path) -> Path:
    """Two safe checkpoints, one of them below, a malicious one and a page."""
    folder = tmp_path / "shelf"
    (folder / "below").mkdir(parents=True)
    torch.save({"w": torch.randn(100)}, folder / "a.ckpt")
    torch.save({"w": torch.randn(50)}, folder / "below" / "b.pt")
    weights = random_weights({"w": (DType.F16, (4,))}, seed=1)
    write_torch_zip(str(folder / "evil.pt"), weights, before=[Call(Import("os", "system"), ("echo harmless",))])
    (folder / "page.ckpt").write_bytes(b"<!DOCTYPE html><html></html>")
    (folder / "notes.txt").write_text("nothing")
    return folder


def actions(shelf: Path, target: Path | None = None, request: BatchRequest = REQUEST, jobs: int = 1) -> dict[str, str]:
    results = convert_all(str(shelf), None if target is None else str(target), request, jobs=jobs)
    return {str(Path(result.path).relative_to(shelf)): result.action for result in results}


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_safe_checkpoint_is_converted(shelf, tmp_path, jobs):
    """Beside its source without a target, at the same place below one; what fails does not end the run."""
    out = tmp_path / "out"
    expected = {"a.ckpt": "converted", "evil.pt": "refused", "page.ckpt": "failed", "below/b.pt": "converted"}
    assert actions(shelf, out, jobs=jobs) == expected
    assert torch.equal(load_file(out / "below" / "b.safetensors")["w"], torch.load(shelf / "below" / "b.pt")["w"])
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == ["a.safetensors", "below/b.safetensors"]
    assert actions(shelf, jobs=jobs) == expected
    assert (shelf / "a.safetensors").exists()


def test_a_second_run_does_what_is_left(shelf):
    """What was converted is not read again; a new file, and one whose target is gone, are converted."""
    actions(shelf)
    torch.save({"w": torch.zeros(1)}, shelf / "new.pt")
    (shelf / "below" / "b.safetensors").unlink()
    again = actions(shelf)
    assert again["new.pt"] == again["below/b.pt"] == "converted"
    assert again["a.ckpt"] == "already converted"


def test_the_journal_spares_reading(shelf, monkeypatch):
    """Of files that are as they were, neither side is read in a second run."""
    actions(shelf)
    asked = []
    monkeypatch.setattr(batch, "convert", lambda path, *_, **__: asked.append(Path(path).name))
    actions(shelf)
    assert asked == ["evil.pt", "page.ckpt"]


@pytest.mark.parametrize("side", ["a.ckpt", "a.safetensors"])
def test_a_change_is_seen(shelf, side):
    """A source that was replaced, or a target that was, is not taken for done."""
    actions(shelf)
    torch.save({"w": torch.randn(100)}, shelf / "other")
    if side == "a.ckpt":
        (shelf / "other").rename(shelf / side)
    else:
        data = bytearray((shelf / side).read_bytes())
        data[-1] ^= 1
        (shelf / side).write_bytes(data)
    assert actions(shelf)["a.ckpt"] == "failed"  # the name is taken by something else, which is not overwritten
    assert actions(shelf, request=BatchRequest(NO_OPTIONS, force=True))["a.ckpt"] == "converted"
    assert torch.equal(load_file(shelf / "a.safetensors")["w"], torch.load(shelf / "a.ckpt")["w"])


def test_without_a_journal_the_bytes_are_compared(shelf, tmp_path):
    """Where nothing is known of a target, it counts as done when it is byte for byte what would be written."""
    actions(shelf)
    (tmp_path / "cache" / "conversions-1.jsonl").write_text('{"broken\n[]\n{"how": 1}\n')
    before = verdict_cache.identity_of(str(shelf / "a.safetensors"))
    assert actions(shelf)["a.ckpt"] == "already converted"
    assert verdict_cache.identity_of(str(shelf / "a.safetensors")) == before


def test_other_options_are_another_conversion(shelf):
    """The journal tells conversions apart by what was asked for."""
    actions(shelf)
    halves = BatchRequest(ConversionOptions((dtype_rule("fp16"),)), force=True)
    assert actions(shelf, request=halves)["a.ckpt"] == "converted"
    assert load_file(shelf / "a.safetensors")["w"].dtype is torch.float16


def test_two_sources_of_one_target(shelf):
    """a.ckpt and a.pt cannot both become a.safetensors: the second is told, whichever is faster."""
    torch.save({"w": torch.randn(100)}, shelf / "a.pt")
    (shelf / "a.bin").write_text("<html>no model, so it takes no name from one</html>")
    results = {Path(each.path).name: each for each in convert_all(str(shelf), None, REQUEST, jobs=3)}
    assert results["a.ckpt"].action == "converted"
    assert results["a.pt"].action == "failed"
    assert "is also the target of" in str(results["a.pt"].error)


def test_a_dry_run_writes_nothing(shelf, tmp_path):
    """It says what would be converted, and makes no folder."""
    found = actions(shelf, tmp_path / "out", BatchRequest(NO_OPTIONS, dry_run=True))
    assert found["a.ckpt"] == "would convert"
    assert not (tmp_path / "out").exists()


def test_a_dry_run_knows_what_is_done_already(shelf, tmp_path):
    """What is there as it would be written is no obstacle to a run, nor said to be one before it."""
    actions(shelf, tmp_path / "out")
    found = actions(shelf, tmp_path / "out", BatchRequest(NO_OPTIONS, dry_run=True))
    assert found["a.ckpt"] == "already converted"


def test_giving_up_leaves_whole_files_only(tmp_path):
    """A run that is ended in the middle leaves no part files, and the next one goes on."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for number in range(6):
        torch.save({"w": torch.randn(1 << 18)}, shelf / f"{number}.pt")
    run = convert_all(str(shelf), None, REQUEST, jobs=2)
    assert next(run).action == "converted"
    run.close()
    assert not [name for name in os.listdir(shelf) if ".modelhub-" in name]
    assert {each.action for each in convert_all(str(shelf), None, REQUEST)} <= {
        "converted",
        "already converted",
        "left alone",
    }
    assert len(list(shelf.glob("*.safetensors"))) == 6


def test_the_command(shelf, monkeypatch):
    """A line for each file, one in the end; a refused file decides the exit code, a failed one without it."""
    ran = modelhub("convert", "-r", str(shelf))
    assert ran.code == 1
    assert [text.split()[0] for text in ran.out.splitlines() if not text.startswith(" ")] == [
        "converted",
        "refused",
        "failed",
        "converted",
    ]
    assert ran.err == "2 converted, 1 refused, 1 failed\n"
    (shelf / "evil.pt").unlink()
    ran = modelhub("convert", "--recursive", "--format", "jsonl", str(shelf), "--force", "-j", "1")
    assert ran.code == 2
    reports = {Path(report["source"]).name: report for report in ran.json_lines()}
    assert reports["page.ckpt"]["error"].endswith("an HTML or XML page is not converted")
    assert (reports["a.ckpt"]["action"], reports["a.ckpt"]["done"]) == ("converted", True)
    (shelf / "page.ckpt").unlink()
    ran = modelhub("convert", "-r", "--receipt", "--force", "--format", "json", str(shelf))
    assert (ran.code, ran.json()["complete"]) == (0, True)
    assert json.loads((shelf / "a.safetensors.receipt.json").read_bytes())["schema"] == "modelhub.receipt/1"


def test_nothing_to_convert(tmp_path):
    """A folder without models is not a success."""
    ran = modelhub("convert", "-r", str(tmp_path))
    assert (ran.code, ran.err) == (2, "nothing to convert: no model file was found there\n")
    assert modelhub("convert", "-r", "--in-place", str(tmp_path)).code == 2
