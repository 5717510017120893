"""On a GPU: weights go there from the file, and models are run there. ``make test-gpu``."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelhub.samples.layouts import checkpoint
from modelhub.samples.runnable import healthy, save
from modelhub.smoke import Settings, SmokeSpec
from modelhub.smoke.loading import Files, load, place_of
from modelhub.smoke.prepare import prepare
from modelhub.smoke.telling import Teller
from tests.cli.run import process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def anonymous() -> int:
    """Bytes of this process's memory that no file lies behind."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("RssAnon:"))


def test_weights_go_to_the_device_without_a_copy_on_the_host(tmp_path: Path) -> None:
    """Loading a checkpoint of full size, cast on the way, takes a fraction of it of the host's own memory."""
    path = tmp_path / "model.safetensors"
    weights = {name: torch.zeros(shape, dtype=torch.float32) for name, (_, shape) in checkpoint("sd-1").items()}
    save_file(weights, path)
    del weights
    spec = prepare(str(path), Settings(device="cuda"))
    assert isinstance(spec, SmokeSpec)
    torch.zeros(1, device="cuda")  # the driver's own memory
    before = most = anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        place = place_of("cuda", "auto")
        with Teller(str(tmp_path / "told")) as teller, torch.inference_mode():
            modules, _ = load(spec.components, Files(spec.files, place.device), place, teller)
    finally:
        done.set()
        watcher.join()
    assert {(each.device.type, each.dtype) for each in modules["unet"].parameters()} == {("cuda", torch.float16)}
    assert most - before < path.stat().st_size / 4


def test_a_healthy_model_passes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command generates on a GPU in fp16, and tells its name and how much of its memory was taken."""
    monkeypatch.chdir(tmp_path)
    save(healthy("sd-1"), tmp_path / "good.safetensors")
    done = process("smoke", "--devices", "cuda:0", "--size", "64", "--format", "json", "good.safetensors")
    (report,) = json.loads(done.stdout)["reports"]
    assert report["outcome"] in ("passed", "suspect"), report["sentence"]
    assert report["facts"]["device"].startswith("cuda (")
    assert report["facts"]["dtype"] == "float16"
    assert report["device_memory"] > 10 << 20
