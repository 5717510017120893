"""What is made of measurements, without a model: each threshold from both sides, and what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from modelhub.smoke import SmokeSpec
from modelhub.smoke.checks import judge
from modelhub.smoke.run import Measured
from modelhub.smoke.spec import AdapterSpec, Component
from tests.smoke.course import outcomes, unpassed

FINE = {"count": 0, "names": []}
LOAD = {"loaded": 3, "missing": FINE, "unexpected": FINE, "non_finite": FINE}
VAE = {"latents": {"non_finite": 0.0, "deviation": 1.0}, "non_finite": 0.0, "psnr": 25.0}
LATENTS = [{"non_finite": 0.0, "deviation": 1.0}]
IMAGE = {
    "non_finite": 0.0,
    "deviation": 0.2,
    "black": 0.0,
    "white": 0.0,
    "saturated": 0.1,
    "autocorrelation": 0.8,
    "patchiness": 0.8,
    "bits": 12.0,
}
DIFFERENCES = {"repetition": 0.0, "other_prompt": 0.5, "no_guidance": 0.5}
PROBE = {"epsilon": 0.05, "v_prediction": 0.9, "output": 1.0}
MODEL: dict[str, Any] = {
    "device": "cpu (1 threads)",
    "load": LOAD,
    "vae": VAE,
    "text": {"non_finite": 0.0, "difference": 1.0},
    "probe": PROBE,
    "latents": LATENTS,
    "image": IMAGE,
    "differences": DIFFERENCES,
}
ADAPTER: dict[str, Any] = {
    "device": "cpu (1 threads)",
    "load": LOAD,
    "base": {"latents": LATENTS, "image": IMAGE},
    "adapter": {"vectors": {"count": {"text_encoder": 1}, "length": {"text_encoder": 2.0}, "non_finite": FINE}},
    "latents": LATENTS,
    "adapter_difference": 0.5,
    "image": IMAGE,
}
ONE_VAE: dict[str, Any] = {"load": LOAD, "vae": VAE}
WHOLE = {"checkpoint": MODEL, "vae": ONE_VAE, "embedding": ADAPTER}


def spec_of(kind: str, reference: str | None = None) -> SmokeSpec:
    return SmokeSpec(
        path="model.safetensors",
        kind=kind,
        architecture="sd-1",
        pipeline="" if kind == "vae" else "StableDiffusionPipeline",
        files=(),
        components={"vae": Component({}, {})},
        scheduler={"prediction_type": "epsilon"},
        unused=(),
        steps=4,
        size=64,
        seed=0,
        guidance=7.0,
        prompts=("a", "b"),
        device="cpu",
        dtype="fp32",
        tokenizer=None,
        adapter=AdapterSpec() if kind == "embedding" else None,
        base="base.safetensors" if kind == "embedding" else None,
        reference=reference,
    )


def judged(**changed: Any) -> dict[str, str]:
    return unpassed(judge(spec_of("checkpoint"), Measured(MODEL | changed)))


@pytest.mark.parametrize("kind", WHOLE)
def test_what_was_measured_whole_passes(kind: str) -> None:
    """Every measurement there, and none of them a fault."""
    result = judge(spec_of(kind), Measured(WHOLE[kind]))
    assert (result.outcome, unpassed(result)) == ("passed", {})
    assert "worker" not in outcomes(result)


@pytest.mark.parametrize("kind", WHOLE)
def test_what_measured_nothing_does_not_pass(kind: str) -> None:
    """A worker that says it is done and has told nothing has not tested the model."""
    result = judge(spec_of(kind), Measured({}))
    assert (result.outcome, result.sentence) == ("failed", "it was not run to its end")


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("vae", "vae"),
        ("checkpoint", "image"),
        ("checkpoint", "differences"),
        ("embedding", "adapter_difference"),
        ("embedding", "image"),
    ],
)
def test_what_stopped_on_the_way_does_not_pass(kind: str, lost: str) -> None:
    """Good measurements up to some point are no passed test: what a test ends with must be there."""
    values = {name: value for name, value in WHOLE[kind].items() if name != lost}
    result = judge(spec_of(kind), Measured(values))
    assert (result.outcome, unpassed(result)) == ("failed", {"worker": "failed"})


def test_what_failed_is_told_by_its_own_fault_alone() -> None:
    """What ended a test early is said, and not that it ended."""
    values = {"load": LOAD | {"non_finite": {"count": 1, "names": ["unet/a"]}}}
    assert unpassed(judge(spec_of("checkpoint"), Measured(values))) == {"weights.finite": "failed"}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"load": LOAD | {"unexpected": {"count": 1, "names": ["unet/a"]}}}, {"keys.unexpected": "failed"}),
        ({"vae": VAE | {"non_finite": 0.5}}, {"vae.finite": "failed"}),
        ({"vae": VAE | {"latents": {"non_finite": 0.5, "deviation": None}}}, {"vae.finite": "failed"}),
        ({"image": {"non_finite": 0.1}}, {"image.finite": "failed"}),
        ({"image": IMAGE | {"white": 0.98}}, {"image.white": "failed"}),
        ({"image": IMAGE | {"white": 0.97}}, {}),
        ({"image": IMAGE | {"saturated": 0.5}}, {"image.saturated": "suspect"}),
        ({"image": IMAGE | {"saturated": 0.49}}, {}),
        ({"image": IMAGE | {"autocorrelation": 0.1, "patchiness": 0.1, "bits": 22.0}}, {"image.noise": "suspect"}),
        ({"image": IMAGE | {"autocorrelation": 0.1, "patchiness": 0.1}}, {}),
        ({"latents": [{"non_finite": 0.0, "deviation": 2.6}]}, {"latents.deviation": "suspect"}),
        ({"latents": [{"non_finite": 0.0, "deviation": 0.2}]}, {"latents.deviation": "suspect"}),
        ({"latents": [{"non_finite": 0.0, "deviation": None}]}, {"latents.deviation": "suspect"}),
        ({"probe": PROBE | {"output": 0.009}}, {"unet.output": "failed"}),
        ({"probe": PROBE | {"epsilon": 0.3}}, {"unet.probe": "suspect"}),
        ({"probe": PROBE | {"epsilon": 0.9, "v_prediction": 0.1}}, {"unet.prediction": "failed"}),
        ({"probe": PROBE | {"epsilon": None, "output": None}}, {"unet.probe": "failed"}),
        ({"vae_reach": 65505.0}, {"vae.fp16": "suspect"}),
        ({"vae_reach": 65504.0}, {}),
        ({"vae_overflows": True}, {"vae.fp16": "suspect"}),
    ],
)
def test_each_fault_is_told_by_its_check(changed: dict[str, Any], found: dict[str, str]) -> None:
    """One measurement beyond its threshold is one check that is not passed; within it, none."""
    assert judged(**changed) == found


def test_the_sentence_is_the_cause() -> None:
    """Of several faults the first on the way from weights to image is said, for the others follow from it."""
    said = {
        "probe": PROBE | {"epsilon": 0.9},
        "latents": [{"non_finite": 0.0, "deviation": 4.0}],
        "image": IMAGE | {"saturated": 0.6},
    }
    result = judge(spec_of("checkpoint"), Measured(MODEL | said))
    assert result.sentence == "the UNet takes 0.90 of the noise for picture (and 2 more)"


def test_a_lost_reference_is_suspect() -> None:
    """What should have been compared with an accepted image and could not be is not called the same."""
    values = MODEL | {"reference_lost": "[Errno 2] No such file or directory: 'accepted.png'"}
    result = judge(spec_of("checkpoint", "accepted.png"), Measured(values))
    assert (result.outcome, unpassed(result)) == ("suspect", {"image.reference": "suspect"})
    assert "accepted.png" in result.sentence


def test_a_base_that_ends_the_worker_says_nothing_of_the_adapter() -> None:
    """A crash before the base made anything alone is the base's, one after it the adapter's."""
    crashed = "the worker crashed (signal 11) while it was sampling with the base alone"
    result = judge(spec_of("embedding"), Measured({"load": LOAD}, "sampling with the base alone", crashed))
    assert (result.outcome, result.sentence) == ("not testable", f"its base fails: {crashed}")
    told = {"load": LOAD, "base": ADAPTER["base"]}
    result = judge(spec_of("embedding"), Measured(told, "applying it", "the worker crashed (signal 11)"))
    assert (result.outcome, result.sentence) == ("failed", "the worker crashed (signal 11)")
