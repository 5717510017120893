"""ControlNets and T2I-Adapters beside a base: steered by what is drawn, and what is made of one that does not steer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelhub.samples.runnable import Weights, from_picture, healthy, save
from modelhub.smoke import Settings, SmokeResult
from modelhub.smoke.kept import Kept
from modelhub.smoke.prepare import prepare
from tests.smoke.controls import controlnet, t2i_adapter, under_diffusers_names
from tests.smoke.course import carried_out, outcomes, unpassed

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)
Tried = Callable[..., SmokeResult]
BUILT = {"controlnet": controlnet, "t2i-adapter": t2i_adapter}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save(healthy(kind), folder / f"{kind}.safetensors", torch.float32) for kind in ("sd-1", "sdxl")}


@pytest.fixture(scope="module")
def kept() -> Kept:
    """What a worker has of the one before: each base is loaded and sampled with alone once."""
    return Kept()


@pytest.fixture
def tried(tmp_path: Path, bases: dict[str, str], kept: Kept) -> Tried:
    def run(weights: Weights, base: str = "sd-1") -> SmokeResult:
        path = tmp_path / "control.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
        spec = prepare(str(path), SETTINGS, lambda _: bases.get(base, base))
        return spec if isinstance(spec, SmokeResult) else carried_out(spec, tmp_path, kept)

    return run


@pytest.mark.parametrize("architecture", ["sd-1", "sdxl"])
@pytest.mark.parametrize("kind", BUILT)
def test_one_that_steers_passes(tried: Tried, kind: str, architecture: str) -> None:
    """Under its authors' names and under diffusers', all of it is loaded, and what is drawn makes a difference."""
    weights = BUILT[kind](architecture)
    result = tried(weights, architecture)
    assert (result.kind, result.outcome, unpassed(result)) == (kind, "passed", {}), result.sentence
    assert {"adapter.used", "adapter.effect", "adapter.strength-0", "adapter.drawing", "keys.missing"} <= outcomes(
        result
    ).keys()
    assert result.image is not None
    assert tried(under_diffusers_names(weights), architecture).checks == result.checks


def test_an_adapter_for_drawings_in_grey_passes(tried: Tried) -> None:
    """T2I-Adapters for sketches and edges are shown one channel."""
    assert unpassed(tried(t2i_adapter(channels=1))) == {}


@pytest.mark.parametrize("kind", BUILT)
def test_one_that_steers_nothing_fails(tried: Tried, kind: str) -> None:
    """Convolutions that are still zero, as before training, leave the image as it is, whatever is drawn."""
    weights = BUILT[kind]()
    for name in weights:
        if kind == "t2i-adapter" or "zero_convs" in name or "middle_block_out" in name:
            weights[name] *= 0
    assert unpassed(tried(weights)) == {"adapter.effect": "failed", "adapter.drawing": "failed"}


def test_one_that_is_not_shown_the_drawing_fails(tried: Tried) -> None:
    """A ControlNet that changes the image and does not look at what is drawn is no ControlNet."""
    weights = controlnet()
    weights["control_model.input_hint_block.14.weight"] *= 0
    assert unpassed(tried(weights)) == {"adapter.drawing": "failed"}


@pytest.mark.parametrize("kind", BUILT)
def test_a_value_that_is_no_number_fails(tried: Tried, kind: str) -> None:
    """It is named, and nothing is sampled."""
    weights = BUILT[kind]()
    name = next(name for name in weights if "conv_in" in name or "zero_convs" in name)
    weights[name].view(-1)[0] = torch.nan
    result = tried(weights)
    assert unpassed(result) == {"adapter.finite": "failed"}
    assert name in result.sentence
    assert result.image is None


def test_a_tensor_without_dimensions_is_no_crash(tried: Tried) -> None:
    """What has one number where a convolution should be is told as what does not fit its base."""
    weights = under_diffusers_names(controlnet()) | {"controlnet_down_blocks.0.weight": torch.tensor(1.0)}
    result = tried(weights)
    assert (result.outcome, "it is for a UNet of the widths" in result.sentence) == ("not testable", True)


def test_a_lost_tensor_fails(tried: Tried) -> None:
    """What diffusers would fill with random numbers is told by its name in the file."""
    weights = controlnet()
    del weights["control_model.zero_convs.3.0.bias"]
    result = tried(weights)
    assert unpassed(result) == {"keys.missing": "failed"}
    assert "control_model.zero_convs.3.0.bias" in result.sentence


def test_a_tensor_of_no_use_is_suspect(tried: Tried) -> None:
    """A tensor that no module has a place for is named."""
    weights = controlnet() | {"control_model.middle_block.7.strange": torch.ones(2)}
    result = tried(weights)
    assert unpassed(result) == {"adapter.used": "suspect"}
    assert "middle_block.7.strange" in result.sentence


def test_one_for_another_unet_is_not_tried(tried: Tried, tmp_path: Path) -> None:
    """A base of other widths, or one that starts from a picture, says nothing of it."""
    result = tried(controlnet("sdxl"), "sd-1")
    assert result.sentence.startswith("it is for sdxl, and ")
    other = t2i_adapter()
    other |= {"body.6.in_conv.weight": torch.ones(96, 64, 1, 1), "body.6.in_conv.bias": torch.ones(96)}
    for j in (6, 7):
        other |= {f"body.{j}.block1.weight": torch.ones(96, 96, 3, 3), f"body.{j}.block1.bias": torch.ones(96)}
        other |= {f"body.{j}.block2.weight": torch.ones(96, 96, 1, 1), f"body.{j}.block2.bias": torch.ones(96)}
    result = tried(other)
    assert (result.outcome, "of the widths 128, 32, 64, 96" in result.sentence) == ("not testable", True)
    inpainting = save(from_picture("sd-1", 9), tmp_path / "inpainting.safetensors")
    assert "StableDiffusionInpaintPipeline" in tried(controlnet(), inpainting).sentence


def test_a_folder_of_one_is_tried(tmp_path: Path, bases: dict[str, str], kept: Kept) -> None:
    """What diffusers saves is a folder; its own configuration is not read by diffusers."""
    folder = tmp_path / "canny"
    folder.mkdir()
    save_file(under_diffusers_names(controlnet()), folder / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "ControlNetModel", "block_out_channels": [1, 2, 3], "in_channels": 77}
    (folder / "config.json").write_text(json.dumps(config))
    spec = prepare(str(folder), SETTINGS, lambda _: bases["sd-1"])
    assert not isinstance(spec, SmokeResult), spec.sentence
    result = carried_out(spec, tmp_path, kept)
    assert (result.kind, result.outcome, unpassed(result)) == ("controlnet", "passed", {}), result.sentence


def test_sorts_that_diffusers_has_other_modules_for_are_not_tried(tried: Tried) -> None:
    """A file of ControlNet-LLLite is no ControlNetModel."""
    block = "lllite_unet_middle_block_1_transformer_blocks_4_attn1_to_q"
    weights = {f"{block}.{name}.0.weight": torch.ones(4, 4) for name in ("down", "up")}
    result = tried(weights, "sdxl")
    assert (result.outcome, "of the sort lllite" in result.sentence) == ("not testable", True)
