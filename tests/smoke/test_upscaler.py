"""Upscalers and restorers through spandrel: pictures come back, and what is made of a network that makes none."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelhub.samples.runnable import Weights
from modelhub.smoke import Settings, SmokeResult, prepare, upscaling
from modelhub.smoke.loading import CannotLoad
from modelhub.smoke.spec import SmokeSpec
from tests.smoke.course import carried_out, outcomes, said_in, unpassed
from tests.smoke.upscalers import compact

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)
Tried = Callable[..., SmokeResult]


@pytest.fixture
def tried(tmp_path: Path) -> Tried:
    def run(weights: Weights, settings: Settings = SETTINGS) -> SmokeResult:
        path = tmp_path / "upscaler.safetensors"
        save_file(weights, path)
        spec = prepare(str(path), settings)
        return spec if isinstance(spec, SmokeResult) else carried_out(spec, tmp_path)

    return run


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_upscaler_passes(tried: Tried, scale: int) -> None:
    """It loads whole, makes pictures as many times as large as it says, and those look like what was made smaller."""
    result = tried(compact(scale, size=0.001))
    assert (result.kind, result.outcome, unpassed(result)) == ("upscaler", "passed", {}), result.sentence
    assert result.sentence == "it gives pictures back"
    assert {"upscaler.load", "upscaler.size", "upscaler.psnr", "image.finite"} <= outcomes(result).keys()
    assert said_in(result.image).endswith(f"Model: {Path(result.path).name}")
    assert result.facts["upscaler"]["scale"] == scale  # type: ignore[index]


def test_an_upscaler_of_noise_fails(tried: Tried) -> None:
    """A network that was never trained gives no picture back."""
    result = tried(compact(size=1.0))
    assert unpassed(result) == {"upscaler.psnr": "failed"}
    assert "dB, where the nearest pixels have" in result.sentence


def test_a_value_that_is_no_number_fails(tried: Tried) -> None:
    """The tensor is named, and no picture made."""
    weights = compact()
    weights["body.2.bias"][1] = torch.nan
    result = tried(weights)
    assert outcomes(result)["weights.finite"] == "failed"
    assert "body.2.bias" in result.sentence
    assert result.image is None


def test_weights_that_overflow_fail(tried: Tried) -> None:
    """Numbers that are finite and make none that is."""
    weights = compact(size=1.0)
    for name in ("body.2.weight", "body.4.weight"):
        weights[name] *= 1e30
    assert "image.finite" in unpassed(tried(weights))


def test_what_takes_no_picture_is_not_tested(tmp_path: Path) -> None:
    """A network of four channels is whole, and nothing drawn can be given to it: that is no fault of it."""
    upscaling._spandrel()
    network = importlib.import_module("spandrel.architectures.ESRGAN").ESRGAN(
        in_nc=4, out_nc=4, num_filters=8, num_blocks=1, scale=2
    )
    save_file(network.state_dict(), tmp_path / "four.safetensors")
    spec = prepare(str(tmp_path / "four.safetensors"), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    with pytest.raises(CannotLoad, match=r"there is no test yet for .* of 4 channels"):
        carried_out(spec, tmp_path)


@pytest.mark.parametrize("change", ["lost", "strange"])
def test_every_tensor_has_its_place(tried: Tried, change: str) -> None:
    """A lost tensor and one without a place are told in spandrel's words; nothing is filled in."""
    weights = compact()
    if change == "lost":
        del weights["body.2.bias"]
    else:
        weights["tail.weight"] = torch.ones(3)
    result = tried(weights)
    assert unpassed(result) == {"upscaler.load": "failed"}
    assert ("body.2.bias" if change == "lost" else "tail.weight") in result.sentence


def test_it_runs_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """spandrel imports torchvision for networks of other kinds; where it is missing or broken, upscalers run all the
    same, and nothing that stood in its place is left behind."""
    import sys

    spandrel = upscaling._spandrel()
    assert spandrel.MAIN_REGISTRY
    assert getattr(sys.modules.get("torchvision"), "__spec__", True) is not None
    save_file(compact(size=0.001), tmp_path / "up.safetensors")
    spec = prepare(str(tmp_path / "up.safetensors"), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    assert carried_out(spec, tmp_path).outcome == "passed"
