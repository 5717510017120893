"""What the worker measures and what is made of it: each fault is caught by the check that it is for.

The course of a test is run within this process, so that torch is imported once; what a process of its own adds is for
``test_process.py``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modelhub.samples.runnable import UNET, VAE, Weights, from_picture, healthy, healthy_vae, random, save, vae_shapes
from modelhub.smoke import Settings, SmokeResult, SmokeSpec, images, kept, loading
from modelhub.smoke.loading import CannotLoad, NoDevice, place_of
from modelhub.smoke.prepare import prepare
from modelhub.smoke.tokens import StandIn, tokenizer_for
from tests.smoke.course import carried_out, outcomes, said_in, unpassed

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)
Test = Callable[[Weights], SmokeResult]


@pytest.fixture
def tried(tmp_path: Path) -> Test:
    def run(weights: Weights, settings: Settings = SETTINGS) -> SmokeResult:
        spec = prepare(save(weights, tmp_path / "model.safetensors", torch.float32), settings)
        return spec if isinstance(spec, SmokeResult) else carried_out(spec, tmp_path)

    return run


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl"])
def test_a_healthy_model_passes_every_check(tried: Test, architecture: str) -> None:
    """SD 1, SD 2 and SDXL load completely, denoise, heed prompt, guidance and seed, and make a picture."""
    result = tried(healthy(architecture))
    assert (result.outcome, unpassed(result)) == ("passed", {})
    assert result.sentence == "it generates"
    assert {"unet.probe", "vae.psnr", "image.noise", "sampling.prompt", "sampling.repetition"} <= outcomes(
        result
    ).keys()
    assert result.image is not None
    assert result.image.startswith(b"\x89PNG")
    assert b"bicycle" in result.image


@pytest.mark.parametrize(
    ("architecture", "channels"),
    [
        ("sd-1", 9),
        ("sdxl", 9),
        ("sd-1", 8),
        ("sdxl", 8),
        ("sd-2", 5),
        pytest.param("sd-2", 9, marks=pytest.mark.big),  # SD 1's pipeline, with the text encoder of SD 2's others
    ],
)
def test_a_model_that_starts_from_a_picture_passes(tried: Test, architecture: str, channels: int) -> None:
    """Inpainting with a mask, InstructPix2Pix and the model of depth run in pipelines of their own; another picture is
    another image."""
    result = tried(from_picture(architecture, channels))
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert outcomes(result)["sampling.picture"] == "passed"


def test_the_refiner_is_run_from_a_picture(tried: Test) -> None:
    """It has one text encoder of SDXL's, and starts from a picture."""
    result = tried(healthy("sdxl-refiner"))
    assert (result.architecture, result.outcome, unpassed(result)) == ("sdxl-refiner", "passed", {}), result.sentence
    assert result.facts["pipeline"] == "StableDiffusionXLImg2ImgPipeline"


@pytest.mark.parametrize(("architecture", "channels"), [("sd-1", 9), ("sdxl", 8), ("sd-2", 5)])
def test_a_model_that_ignores_its_picture_fails(tried: Test, architecture: str, channels: int) -> None:
    """A UNet that looks at nothing but the noise inpaints nothing, edits nothing and knows no distances."""
    weights = from_picture(architecture, channels)
    weights[f"{UNET}input_blocks.0.0.weight"][:, 4:] = 0
    assert "sampling.picture" in unpassed(tried(weights, replace(SETTINGS, steps=2)))


@pytest.mark.parametrize("architecture", ["sd-1", "sdxl"])
def test_the_standard_preset_starts_from_a_picture_too(tried: Test, architecture: str) -> None:
    """Text to image and image to image are two ways of the same modules."""
    result = tried(healthy(architecture), replace(SETTINGS, preset="standard", steps=4))
    assert (result.outcome, unpassed(result)) == ("passed", {}), result.sentence
    assert outcomes(result)["image-to-image.picture"] == "passed"


@pytest.mark.parametrize("architecture", ["sd-1", "sdxl", "sdxl-refiner"])
def test_one_step_is_a_test(tried: Test, architecture: str) -> None:
    """From a picture, too, one step is run and not none."""
    result = tried(healthy(architecture), replace(SETTINGS, preset="standard", steps=1))
    assert outcomes(result)["sampling.repetition"] == "passed"
    name = "sampling.picture" if architecture == "sdxl-refiner" else "image-to-image.picture"
    assert outcomes(result)[name] == "passed"


def overflowing(kind: str) -> Weights:
    """A VAE, or a checkpoint with one, whose values on the way are beyond those of fp16, and its pictures as ever."""
    weights = healthy_vae() if kind == "vae" else healthy(kind)
    for name in [each for each in weights if each.endswith(("decoder.conv_in.weight", "decoder.conv_in.bias"))]:
        weights[name] *= 1000
    (above,) = [name for name in weights if name.endswith("decoder.up.3.upsample.conv.weight")]
    weights[above] *= 100
    return weights


@pytest.mark.parametrize(("kind", "found"), [("vae", "suspect"), ("sd-1", "suspect"), ("sdxl", "passed")])
def test_a_vae_that_would_overflow_in_fp16_is_told_wherever_it_runs(tried: Test, kind: str, found: str) -> None:
    """The largest value on the way says so in fp32, too, where most tests on a CPU run; SDXL's is known to."""
    result = tried(overflowing(kind))
    (check,) = (check for check in result.checks if check.name == "vae.fp16")
    assert (result.outcome, check.outcome) == (found, found)
    assert "overflows in fp16: run the VAE in fp32" in check.sentence
    assert check.value is not None
    assert check.value > 65504


@pytest.mark.parametrize("kind", ["vae", pytest.param("sd-1", marks=pytest.mark.big)])
def test_a_vae_that_overflows_in_fp16_is_run_in_fp32(tried: Test, kind: str) -> None:
    """That is told and is no failure: what it gives back, the image and what is made of a picture are measured."""
    settings = replace(SETTINGS, dtype="fp16", preset="standard", steps=1, size=32 if kind == "vae" else 64)
    result = tried(overflowing(kind), settings)
    assert (result.outcome, outcomes(result)["vae.fp16"]) == ("suspect", "suspect"), result.sentence
    assert "failed" not in outcomes(result).values()
    assert result.facts["dtype"] == "float16"
    assert result.image is not None
    assert {"vae.psnr"} <= outcomes(result).keys()
    assert kind == "vae" or {"image.flat", "image-to-image.picture"} <= outcomes(result).keys()


@pytest.mark.usefixtures("plain_pictures")
def test_a_model_of_velocity_is_run_as_one(tried: Test) -> None:
    """A marker in the file says what is predicted, and the probe agrees."""
    result = tried(healthy("sdxl", "v_prediction"))
    assert outcomes(result)["unet.probe"] == "passed"
    assert "v_prediction" in str([check.sentence for check in result.checks])


@pytest.mark.usefixtures("plain_pictures")
def test_the_wrong_prediction_type_is_caught(tried: Test) -> None:
    """A model that predicts velocity and is taken to predict noise is told so, with what it predicts."""
    result = tried(healthy("sd-1", "v_prediction"))
    found = {check.name: check for check in result.checks}["unet.prediction"]
    assert (found.outcome, found.sentence) == ("failed", "it predicts v_prediction and is run as epsilon")
    assert result.outcome == "failed"


def test_a_vae_passes_by_what_it_gives_back(tried: Test) -> None:
    """A VAE on its own is judged by a round trip, in decibels."""
    result = tried(healthy_vae())
    assert (result.outcome, result.sentence, result.kind) == ("passed", "it decodes", "vae")
    (psnr,) = (check.value for check in result.checks if check.name == "vae.psnr")
    assert psnr is not None
    assert psnr > 20
    assert said_in(result.image) == "Size: 64x64, Model: model.safetensors"


def test_a_vae_that_was_never_trained_fails(tried: Test) -> None:
    """Random weights give no picture back."""
    result = tried(random(vae_shapes()))
    assert unpassed(result) == {"vae.psnr": "failed"}
    assert "dB only" in result.sentence


def test_one_weight_that_is_no_number_is_named(tried: Test) -> None:
    """A NaN anywhere fails the model before it is run, with the tensor's name in the file."""
    weights = healthy("sd-1")
    name = f"{UNET}middle_block.0.in_layers.2.bias"
    weights[name][3] = torch.nan
    result = tried(weights)
    assert unpassed(result) == {"weights.finite": "failed"}
    assert f"unet/{name}" in result.sentence
    assert result.image is None


def test_a_unet_of_zeros_is_caught(tried: Test) -> None:
    """A UNet that predicts nothing neither denoises nor heeds the prompt."""
    weights = healthy("sd-1")
    for name in weights:
        if name.startswith(UNET):
            weights[name] = torch.zeros_like(weights[name])
    result = tried(weights)
    found = unpassed(result)
    assert result.sentence.startswith("the UNet predicts nothing (and ")
    assert found["unet.output"] == "failed"
    assert found["sampling.prompt"] == found["sampling.guidance"] == "failed"


def test_an_untrained_model_does_not_pass(tried: Test) -> None:
    """A random UNet takes noise for picture and makes latents far from what a VAE is made for: it is suspect."""
    weights = healthy("sd-1")
    generator = torch.Generator().manual_seed(3)
    for name in weights:
        if name.startswith(UNET):
            weights[name] = torch.randn(weights[name].shape, generator=generator) * 0.05
    result = tried(weights)
    assert result.outcome in ("suspect", "failed")
    assert {"unet.probe": "suspect", "latents.deviation": "suspect"}.items() <= unpassed(result).items()


def test_a_black_image_fails(tried: Test) -> None:
    """A VAE whose decoder makes the same black of everything is caught twice."""
    weights = healthy("sd-1")
    weights[f"{VAE}decoder.conv_out.weight"] *= 0
    weights[f"{VAE}decoder.conv_out.bias"] -= 4
    found = unpassed(tried(weights))
    assert found["image.flat"] == found["image.black"] == "failed"
    assert found["vae.psnr"] == "failed"


def test_a_text_encoder_that_makes_the_same_of_everything_fails(tried: Test) -> None:
    """Prompts that cannot be told apart are the text encoder's fault, and the report says so."""
    weights = healthy("sd-1")
    weights["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] *= 0
    found = unpassed(tried(weights))
    assert found["text.difference"] == found["sampling.prompt"] == "failed"


def test_an_overflow_on_the_way_is_found_where_it_happens(tried: Test) -> None:
    """Weights that are finite and overflow when they are used fail at the stage that they overflow in."""
    weights = healthy("sd-1")
    weights[f"{UNET}out.2.bias"] += 3e38
    found = unpassed(tried(weights))
    assert "latents.finite" in found
    assert "image.flat" not in found


def test_missing_tensors_fail_before_anything_is_loaded(tried: Test) -> None:
    """What should be there and is not is counted and named; no library is asked to guess."""
    weights = healthy("sd-1")
    lost = f"{UNET}middle_block.1.proj_out.weight"
    del weights[lost]
    result = tried(weights)
    assert unpassed(result) == {"keys.missing": "failed"}
    assert lost in result.sentence


def test_tensors_that_nothing_loads_are_suspect(tried: Test) -> None:
    """A tensor of the UNet that no module has a place for is told; the noise schedule and averages are not."""
    weights = healthy("sd-1")
    weights |= {"betas": torch.ones(1000), "model_ema.decay": torch.ones(())}
    weights[f"{UNET}middle_block.7.strange.weight"] = torch.ones(3)
    result = tried(weights)
    assert unpassed(result) == {"keys.unused": "suspect"}
    assert "middle_block.7.strange.weight" in result.sentence


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("chroma", ("distilled_guidance_layer.in_proj.weight", "img_in.weight")),
        ("flux-2", ("double_stream_modulation_img.lin.weight", "single_stream_modulation.lin.weight")),
    ],
)
def test_a_family_without_a_test_is_named(tmp_path: Path, architecture: str, names: tuple[str, ...]) -> None:
    """A checkpoint of another family is not called incomplete for having no UNet."""
    weights = {UNET + name: torch.zeros(2, 2) for name in names}
    weights |= {VAE + name: weight for name, weight in healthy_vae().items()}
    result = prepare(save(weights, tmp_path / "model.safetensors"), SETTINGS)
    assert isinstance(result, SmokeResult)
    assert (result.outcome, result.sentence) == ("not testable", f"there is no test yet for models of {architecture}")


def test_a_file_that_changed_since_its_scan_is_not_loaded(tmp_path: Path) -> None:
    """The bytes that are loaded are those that were judged."""
    spec = prepare(save(healthy_vae(), tmp_path / "vae.safetensors"), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    save(healthy_vae(0.5), tmp_path / "vae.safetensors")
    with pytest.raises(CannotLoad, match="changed since it was scanned"):
        carried_out(spec, tmp_path)


def test_the_spec_crosses_as_json(tmp_path: Path) -> None:
    """What a worker is told is what was prepared."""
    spec = prepare(save(healthy("sd-2"), tmp_path / "model.safetensors"), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    assert SmokeSpec.from_json(spec.to_json()) == spec
    assert replace(spec, seed=1) != spec


def test_a_missing_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a GPU where there is none is no fault of the model."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoDevice, match="no CUDA device"):
        place_of("cuda", "auto")
    assert place_of("auto", "fp32").device.type == "cpu"


def test_real_prompts_are_read_with_the_vocabulary(tmp_path: Path) -> None:
    """With CLIP's vocabulary files, words become its tokens between its marks, filled up to the length."""
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "r", "e", "d</w>", "re", "red</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    openai = SimpleNamespace(hidden_act="quick_gelu", vocab_size=8, max_position_embeddings=4)
    other = SimpleNamespace(hidden_act="gelu", vocab_size=8, max_position_embeddings=8)
    assert tokenizer_for(other, str(tmp_path))("a red") == [0, 2, 7, 1, 0, 0, 0, 0]
    assert tokenizer_for(openai, str(tmp_path))("a") == [0, 2, 1, 1]
    ids = StandIn(512)("a red bicycle")
    assert (ids[0], ids[4], ids[-1], len(ids)) == (510, 511, 511, 77)
    assert StandIn(512)("a blue bicycle")[1:4] != ids[1:4]


def test_an_image_is_compared_with_the_accepted_one(tmp_path: Path) -> None:
    """The same image passes; another one fails, by the difference of its hash; a lost one is told."""
    spec = prepare(save(healthy("sd-1"), tmp_path / "model.safetensors", torch.float32), replace(SETTINGS, steps=1))
    assert isinstance(spec, SmokeSpec)
    own = kept.Kept()
    first = carried_out(spec, tmp_path, own)
    assert first.image is not None
    (tmp_path / "accepted.png").write_bytes(first.image)
    again = carried_out(replace(spec, reference=str(tmp_path / "accepted.png")), tmp_path, own)
    assert outcomes(again)["image.reference"] == "passed"
    (tmp_path / "other.png").write_bytes(images.png(np.random.default_rng(0).random((64, 64, 3), np.float32)))
    other = carried_out(replace(spec, reference=str(tmp_path / "other.png")), tmp_path, own)
    assert outcomes(other)["image.reference"] == "failed"
    lost = carried_out(replace(spec, reference=str(tmp_path / "lost.png")), tmp_path, own)
    assert outcomes(lost)["image.reference"] == "suspect"


def test_a_damaged_reference_is_no_picture(tmp_path: Path) -> None:
    """Whatever is wrong in it, reading it says so in the one way that is expected."""
    whole = images.png(images.drawn(64)[0])
    path = tmp_path / "damaged.png"
    huge = whole[:16] + (1 << 20).to_bytes(4, "big") * 2 + whole[24:29]
    huge += zlib.crc32(huge[12:]).to_bytes(4, "big") + whole[33:]
    for data in (whole.replace(b"IDAT", b"ID\xd6T"), huge, whole[: len(whole) // 2], b"\x89PNG", b""):
        path.write_bytes(data)
        with pytest.raises(OSError, match=r"damaged|truncated|PNG"):
            images.read_png(str(path))


def test_what_a_vae_gives_back_is_compared_too(tmp_path: Path) -> None:
    """A VAE has an image as well, and a VAE that was changed since gives back another."""
    spec = prepare(save(healthy_vae(), tmp_path / "vae.safetensors", torch.float32), SETTINGS)
    assert isinstance(spec, SmokeSpec)
    first = carried_out(spec, tmp_path)
    assert first.image is not None
    (tmp_path / "accepted.png").write_bytes(first.image)
    again = carried_out(replace(spec, reference=str(tmp_path / "accepted.png")), tmp_path)
    assert outcomes(again)["image.reference"] == "passed"
    (tmp_path / "accepted.png").write_bytes(images.png(images.read_png(str(tmp_path / "accepted.png"))[::-1]))
    other = carried_out(replace(spec, reference=str(tmp_path / "accepted.png")), tmp_path)
    assert outcomes(other)["image.reference"] == "failed"


def test_a_buffer_without_values_is_missing(tried: Test, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no file holds and nothing filled ends the test as a failure that names it."""
    monkeypatch.setattr(loading, "_number_positions", lambda *_: None)
    result = tried(healthy("sd-1"))
    assert unpassed(result) == {"keys.missing": "failed"}
    assert "position_ids" in result.sentence


def test_a_model_is_loaded_once_for_many_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next test of the same bytes finds the modules as they were, and is told the same as if it had been alone."""
    spec = prepare(save(healthy("sd-1"), tmp_path / "model.safetensors", torch.float32), replace(SETTINGS, steps=1))
    assert isinstance(spec, SmokeSpec)
    loads = []

    def counted(*given: Any) -> Any:
        loads.append(given)
        return loading.load(*given)

    monkeypatch.setattr(kept, "load", counted)
    own = kept.Kept()
    other = replace(spec, seed=1)
    first, second = (carried_out(each, tmp_path, own) for each in (spec, other))
    assert len(loads) == 1
    assert first.image != second.image
    assert second.checks == carried_out(other, tmp_path).checks


def test_similarity_is_that_of_the_formula() -> None:
    """Equal pictures have 1, noise takes structure away, and a picture of another size has none."""
    first = images.drawn(64)[0]
    noise = np.random.default_rng(0).normal(0, 0.02, first.shape).astype(np.float32)
    assert images.similarity(first, first) == {"bits": 0, "ssim": pytest.approx(1.0)}
    noisy = images.similarity(first, first + noise)["ssim"]
    assert noisy is not None
    assert 0.2 < noisy < 0.98
    assert images.similarity(first, images.drawn(128)[0])["ssim"] is None
    assert images.similarity(first, first[::-1])["bits"] > 16  # type: ignore[operator]
