"""What the measurements of a test say of the model: one check for each, with its threshold, and an outcome for all.

``failed`` is what no usable model does: tensors are missing or not numbers, the image is black or one colour, the
prompt changes nothing. ``suspect`` is what good models have not been seen to do, by thresholds that were set on drawn
pictures, small trained networks and randomly initialised ones; no published model has calibrated them yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelhub.smoke.run import Measured
from modelhub.smoke.spec import Check, SmokeResult, SmokeSpec

FLAT = 0.02
"""Standard deviation of the luminance (0 to 1) below which an image shows nothing."""

DARK_SHARE = 0.98
"""Share of black, or white, pixels from which on an image shows nothing."""

SATURATED_SHARE = 0.5
"""Share of values at the end of their range from which on an image is burnt: wrong guidance, noise or VAE."""

NOISE = {"autocorrelation": 0.3, "patchiness": 0.3, "bits": 19.0}
"""An image of noise is below the first two and above the third: none of 19 natural pictures, gravel and grass among
them, was; random networks are."""

PSNR_FAILED, PSNR_SUSPECT = 15.0, 20.0
"""dB. Stable Diffusion's autoencoder reaches 23.4 on photographs of COCO (the model card of stabilityai/sd-vae-ft-mse),
and more on what is drawn; a random one 9."""

LATENT_DEVIATION = (0.3, 2.5)
"""Standard deviation of finished latents: 1 by the definition of the scaling factor; random networks have 7 to 26."""

PROBE_SUSPECT = 0.3
"""Error of one denoising at half noise, of which predicting nothing makes 1. Small trained networks have
0.01 to 0.03, with 10 % noise on their weights 0.04, with 50 % 0.8; random ones 0.6."""

PROBE_MARGIN = 3.0
"""How many times better the other prediction type must fit to call the model's wrong; right ones fit 14 to 40 times
as well."""

GPU_TOLERANCE = 1e-2
"""Largest difference between latents of equal runs on a GPU; on a CPU they are equal."""

_NEEDLESS = re.compile(
    r"[^.]+|model_ema\..+|.*\.position_ids|.*\.logit_scale|loss\..+|.*\.text_projection(\.weight)?"
    r"|cond_stage_model\.model\.transformer\.resblocks\.23\..+|(denoiser|edm_vpred)\..+"
)
"""Tensors that published files have and generating does not need: the noise schedule, averaged weights, what training
left, the last layer of SD 2's text encoder."""

_Told = Mapping[str, Any]


def judge(spec: SmokeSpec, measured: Measured) -> SmokeResult:
    """The result of *spec*'s test, of which the worker left *measured*."""
    checks = tuple(_checks(spec, measured))
    values = measured.values
    outcome, sentence = _upshot(checks)
    if measured.end is not None and not measured.testable:
        outcome, sentence = "not testable", measured.end
    facts = {name: values[name] for name in _FACTS if name in values}
    return SmokeResult(
        spec.path,
        outcome,  # type: ignore[arg-type]
        sentence,
        spec.kind,
        spec.architecture,
        checks,
        measured.image,
        values.get("seconds", {}),
        values.get("host_memory"),
        values.get("device_memory"),
        facts | {"tokenizer": spec.tokenizer or "stand-in", "unused": list(spec.unused)} | _asked(spec),
    )


_FACTS = ("device", "dtype", "versions", "load", "probe", "latents", "vae", "differences")


def _asked(spec: SmokeSpec) -> dict[str, object]:
    names = ("pipeline", "steps", "size", "seed", "guidance", "prompts")
    return {name: getattr(spec, name) for name in names} if spec.pipeline else {"size": spec.size}


def _upshot(checks: tuple[Check, ...]) -> tuple[str, str]:
    for outcome in ("failed", "suspect"):
        told = [check.sentence for check in checks if check.outcome == outcome]
        if told:
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            return outcome, told[0] + more
    return "passed", "it generates" if any(check.name == "image.flat" for check in checks) else "it decodes"


def _checks(spec: SmokeSpec, measured: Measured) -> Iterator[Check]:
    values = measured.values
    if measured.end is not None and measured.testable:
        yield Check("worker", "failed", None, "ends", measured.end)
    yield from _of_unused(spec)
    for name, checks in (
        ("load", _of_load),
        ("vae", _of_vae),
        ("text", _of_text),
        ("latents", _of_latents),
        ("image", _of_image),
    ):
        if name in values:
            yield from checks(values[name])
    if "probe" in values:
        yield from _of_probe(values["probe"], str(spec.scheduler["prediction_type"]))
    if values.get("vae_overflows"):
        sentence = "its VAE overflows in fp16: run the VAE in fp32"
        outcome = "passed" if spec.components["vae"].config.get("force_upcast") else "suspect"
        yield _check("vae.fp16", outcome, None, "finite in fp16", sentence)
    if "differences" in values:
        yield from _of_differences(values["differences"], str(values.get("device", "")))


def _of_unused(spec: SmokeSpec) -> Iterator[Check]:
    strange = [name for name in spec.unused if not _NEEDLESS.fullmatch(name)]
    if strange:
        others = f" and {len(strange) - 1} others" if len(strange) > 1 else ""
        sentence = f"nothing loads its tensor {strange[0]!r:.150}{others}"
    else:
        sentence = "every tensor that matters is loaded"
    yield _check("keys.unused", "suspect" if strange else "passed", len(strange), "= 0", sentence)


def _of_load(load: _Told) -> Iterator[Check]:
    for kind, words in (("missing", "there is no tensor"), ("unexpected", "no module has a place for")):
        yield _counted(f"keys.{kind}", load[kind], words, f"no tensors are {kind}")
    yield _counted(
        "weights.finite", load["non_finite"], "NaN or infinite values are in", f"{load['loaded']:,} tensors are finite"
    )


def _counted(name: str, told: _Told, words: str, fine: str) -> Check:
    count = int(told["count"])
    if not count:
        return _check(name, "passed", 0, "= 0", fine)
    others = f" and {count - 1} others" if count > 1 else ""
    return _check(name, "failed", count, "= 0", f"{words} {told['names'][0]!r:.150}{others}")


def _of_vae(vae: _Told) -> Iterator[Check]:
    bad = max(vae["latents"]["non_finite"], vae["non_finite"])
    yield _finite("vae.finite", bad, "what the VAE makes of a picture")
    if "psnr" in vae:
        psnr = vae["psnr"] if vae["psnr"] is not None else math.inf
        lost = psnr < PSNR_SUSPECT
        outcome = "passed" if not lost else "failed" if psnr < PSNR_FAILED else "suspect"
        text = "the VAE gives pictures back" if not lost else f"the VAE gives pictures back at {psnr:.1f} dB only"
        yield _check("vae.psnr", outcome, vae["psnr"], f">= {PSNR_SUSPECT:g} dB, failed below {PSNR_FAILED:g}", text)


def _of_text(text: _Told) -> Iterator[Check]:
    yield _finite("text.finite", text["non_finite"], "what the text encoder makes of a prompt")
    if not text["non_finite"]:
        difference = text["difference"]
        words = "prompts are told apart" if difference else "the text encoder makes the same of every prompt"
        yield _check("text.difference", "passed" if difference else "failed", difference, "> 0", words)


def _of_latents(steps: list[_Told]) -> Iterator[Check]:
    for number, step in enumerate(steps, 1):
        if step["non_finite"]:
            yield _finite("latents.finite", step["non_finite"], f"what step {number} of {len(steps)} makes")
            return
    yield _finite("latents.finite", 0, "what every step makes")
    low, high = LATENT_DEVIATION
    deviation = steps[-1]["deviation"]
    fits = deviation is not None and low <= deviation <= high
    words = "the latents have the deviation that a VAE is made for"
    if not fits:
        words = f"the latents have a deviation of {deviation or float('inf'):.3g}, far from 1"
    yield _check("latents.deviation", "passed" if fits else "suspect", deviation, f"{low:g} to {high:g}", words)


def _of_image(image: _Told) -> Iterator[Check]:
    yield _finite("image.finite", image["non_finite"], "the image")
    if image["non_finite"]:
        return
    flat = image["deviation"] < FLAT
    words = "the image is of one colour" if flat else "the image shows something"
    yield _check("image.flat", "failed" if flat else "passed", image["deviation"], f">= {FLAT:g}", words)
    for kind in ("black", "white"):
        share = image[kind]
        words = f"the image is {kind}" if share >= DARK_SHARE else f"the image is not {kind}"
        outcome = "failed" if share >= DARK_SHARE else "passed"
        yield _check(f"image.{kind}", outcome, share, f"< {DARK_SHARE:g}", words)
    burnt = image["saturated"] >= SATURATED_SHARE
    words = "most of the image is at the end of its range" if burnt else "the image is not burnt"
    outcome = "suspect" if burnt else "passed"
    yield _check("image.saturated", outcome, image["saturated"], f"< {SATURATED_SHARE:g}", words)
    noise = (
        image["autocorrelation"] < NOISE["autocorrelation"]
        and image["patchiness"] < NOISE["patchiness"]
        and image["bits"] > NOISE["bits"]
    )
    words = "the image looks like noise" if noise else "the image does not look like noise"
    threshold = " or ".join(f"{name} {'<=' if name == 'bits' else '>='} {value:g}" for name, value in NOISE.items())
    yield _check("image.noise", "suspect" if noise else "passed", image["autocorrelation"], threshold, words)


def _of_probe(probe: _Told, configured: str) -> Iterator[Check]:
    """Whether the UNet denoises, and whether it predicts what it is taken to predict."""
    other = "epsilon" if configured == "v_prediction" else "v_prediction"
    taken, fitting = probe[configured], probe[other]
    if taken is None or fitting is None:
        yield _check("unet.probe", "failed", None, "finite", "the UNet's prediction has NaN or infinite values")
        return
    if fitting * PROBE_MARGIN < taken and fitting < PROBE_SUSPECT:
        sentence = f"it predicts {other} and is run as {configured}"
        yield _check("unet.prediction", "failed", taken / fitting, f"< {PROBE_MARGIN:g}", sentence)
        return
    blurred = taken >= PROBE_SUSPECT
    words = f"the UNet takes {taken:.2f} of the noise for picture" if blurred else f"the UNet denoises, by {configured}"
    yield _check("unet.probe", "suspect" if blurred else "passed", taken, f"< {PROBE_SUSPECT:g}", words)


def _of_differences(differences: _Told, device: str) -> Iterator[Check]:
    allowed = 0.0 if device.startswith("cpu") else GPU_TOLERANCE
    repeated = differences["repetition"]
    same = repeated is not None and repeated <= allowed
    words = "the same seed gives the same image" if same else "the same seed gives another image"
    threshold = f"<= {allowed:g}" if allowed else "= 0"
    yield _check("sampling.repetition", "passed" if same else "failed", repeated, threshold, words)
    for name, what in (("other_prompt", "prompt"), ("no_guidance", "guidance")):
        difference = differences[name]
        matters = difference is not None and difference > allowed
        words = f"the {what} makes a difference" if matters else f"the {what} makes no difference"
        outcome = "passed" if matters else "failed"
        yield _check(f"sampling.{what}", outcome, difference, f"> {allowed:g}", words)


def _finite(name: str, share: float, what: str) -> Check:
    if share:
        return _check(name, "failed", share, "= 0", f"{what} is NaN or infinite")
    return _check(name, "passed", 0, "= 0", f"{what} is finite")


def _check(name: str, outcome: Any, value: float | None, threshold: str, sentence: str) -> Check:
    return Check(name, outcome, value, threshold, sentence)
