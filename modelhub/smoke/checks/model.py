"""What is asked of a model's tensors and of each of its parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from modelhub.smoke.checks.base import Thresholds, Told, check, counted, finite
from modelhub.smoke.spec import Check, SmokeSpec

PSNR_FAILED = 15.0
"""dB below which a VAE is of no use; a random one has 9."""

FP16 = 65504.0
"""The largest number of fp16 (IEEE 754's binary16)."""

FITS = 0.3
"""Error of the probe below which a prediction type is the model's."""

PROBE_MARGIN = 3.0
"""How many times better the other prediction type must fit to call the model's wrong; right ones fit 14 to 40 times
as well."""

SILENT = 0.01
"""Standard deviation of what the UNet or transformer predicts of half noise, of which 1 would be right, below which it
predicts nothing."""

_NEEDLESS = re.compile(
    r"[^.]+|model_ema\..+|.*\.position_ids|.*\.logit_scale|loss\..+|.*\.text_projection(\.weight)?"
    r"|(model\.)?model_sampling\..+|depth_model\..+|cond_stage_model\.model\.transformer\.resblocks\.23\..+|(denoiser|edm_vpred)\..+"
)
"""Tensors that published files have and generating does not need: the noise schedule, averaged weights, what training
left, the estimator of depth (distances are drawn here), the last layer of SD 2's text encoder."""


def of_unused(spec: SmokeSpec) -> Iterator[Check]:
    strange = [name for name in spec.unused if not _NEEDLESS.fullmatch(name)]
    if strange:
        others = f" and {len(strange) - 1} others" if len(strange) > 1 else ""
        sentence = f"nothing loads its tensor {strange[0]!r:.150}{others}"
    else:
        sentence = "every tensor that matters is loaded"
    yield check("keys.unused", "suspect" if strange else "passed", len(strange), "= 0", sentence)


def of_load(load: Told) -> Iterator[Check]:
    for kind, words in (("missing", "there is no tensor"), ("unexpected", "no module has a place for")):
        yield counted(f"keys.{kind}", load[kind], words, f"no tensors are {kind}")
    yield counted(
        "weights.finite", load["non_finite"], "NaN or infinite values are in", f"{load['loaded']:,} tensors are finite"
    )


def of_vae(vae: Told, thresholds: Thresholds) -> Iterator[Check]:
    bad = max(vae["latents"]["non_finite"], vae["non_finite"])
    yield finite("vae.finite", bad, "what the VAE makes of a picture")
    if "psnr" in vae:
        psnr = vae["psnr"] if vae["psnr"] is not None else math.inf
        lost = psnr < max(thresholds.psnr, PSNR_FAILED)
        outcome = "passed" if not lost else "failed" if psnr < PSNR_FAILED else "suspect"
        text = "the VAE gives pictures back" if not lost else f"the VAE gives pictures back at {psnr:.1f} dB only"
        wanted = f">= {thresholds.psnr:g} dB, failed below {PSNR_FAILED:g}"
        yield check("vae.psnr", outcome, vae["psnr"], wanted, text)


def of_reach(reach: float | None, known: bool) -> Iterator[Check]:
    """Whether what the VAE makes on the way, values of *reach* at most (``None``: it overflowed), fits fp16; of a kind
    that is *known* not to, that is no fault."""
    fits = reach is not None and reach <= FP16
    words = "what the VAE makes on the way fits fp16" if fits else "its VAE overflows in fp16: run the VAE in fp32"
    yield check("vae.fp16", "passed" if fits or known else "suspect", reach, f"<= {FP16:g}", words)


def of_text(text: Told) -> Iterator[Check]:
    yield finite("text.finite", text["non_finite"], "what the text encoder makes of a prompt")
    if not text["non_finite"]:
        difference = text["difference"]
        words = "prompts are told apart" if difference else "the text encoder makes the same of every prompt"
        yield check("text.difference", "passed" if difference else "failed", difference, "> 0", words)


def of_probe(probe: Told, configured: str, thresholds: Thresholds) -> Iterator[Check]:
    """Whether the UNet or transformer denoises, and whether it predicts what it is taken to predict."""
    if configured == "flow":
        yield from _speaks("transformer", probe)
        yield _denoises("transformer", probe[configured], configured, thresholds)
        return
    yield from _speaks("UNet", probe)
    other = "epsilon" if configured == "v_prediction" else "v_prediction"
    taken, fitting = probe[configured], probe[other]
    if taken is None or fitting is None:
        yield check("unet.probe", "failed", None, "finite", "the UNet's prediction has NaN or infinite values")
        return
    if fitting * PROBE_MARGIN < taken and fitting < FITS:
        sentence = f"it predicts {other} and is run as {configured}"
        yield check("unet.prediction", "failed", taken / fitting, f"< {PROBE_MARGIN:g}", sentence)
        return
    yield _denoises("UNet", taken, configured, thresholds)


def _speaks(what: str, probe: Told) -> Iterator[Check]:
    """Whether anything is predicted; by what is predicted wrongly, other checks go."""
    deviation = probe["output"]
    if deviation is not None:
        silent = deviation < SILENT
        words = f"the {what} predicts nothing" if silent else f"the {what} predicts something"
        outcome = "failed" if silent else "passed"
        yield check(f"{what.lower()}.output", outcome, deviation, f">= {SILENT:g}", words)


def _denoises(what: str, taken: float | None, configured: str, thresholds: Thresholds) -> Check:
    name = f"{what.lower()}.probe"
    if taken is None:
        return check(name, "failed", None, "finite", f"the {what}'s prediction has NaN or infinite values")
    blurred = taken >= thresholds.probe
    words = (
        f"the {what} takes {taken:.2f} of the noise for picture" if blurred else f"the {what} denoises, by {configured}"
    )
    return check(name, "suspect" if blurred else "passed", taken, f"< {thresholds.probe:g}", words)
