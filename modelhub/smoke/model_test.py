"""Trying a model by itself: its VAE on drawn pictures, its text encoders, its UNet, and all of them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from modelhub.smoke import images
from modelhub.smoke.course import Course, difference
from modelhub.smoke.encoding import Encoded, encoding_of
from modelhub.smoke.grid import try_grid
from modelhub.smoke.pipelines import takes_picture
from modelhub.smoke.sampling import Sampler, statistics

_COMPARED_STEPS = 2
"""Steps after which a repetition, another prompt and no guidance are compared with the image's own latents."""


def try_model(course: Course) -> None:
    """Tell of the course's modules, each by itself, and of the image that they make."""
    spec, teller = course.spec, course.teller
    if "vae" not in course.modules:
        _try_text_encoder(course)
        return
    teller.stage("encoding and decoding drawn pictures")
    latents = _round_trip(course)
    if not spec.pipeline or latents is None:
        return
    teller.stage("encoding prompts")
    sampler = course.sampler()
    prompt, other = (sampler.encode(text) for text in spec.prompts[:2])
    empty = sampler.empty(prompt)
    teller.tell(text=_text_statistics(prompt, other))
    if not torch.isfinite(prompt.tokens).all():
        return
    teller.stage(f"probing the {'transformer' if 'transformer' in course.modules else 'UNet'}")
    teller.tell(probe=sampler.probe(latents, empty))
    teller.stage("sampling")
    first, second = course.drawn()
    started = first if takes_picture(spec.pipeline) else None
    sampled = sampler.sample(prompt, empty, guidance=spec.guidance, picture=started)
    plane = sampled.latents.float().cpu().numpy()[0, 0]
    teller.tell(latents=sampled.steps, latent_autocorrelation=images.autocorrelation(plane, 1))
    if sampled.steps[-1]["non_finite"]:
        return
    teller.stage("decoding the image")
    teller.tell(image=course.picture(sampled.latents))
    teller.stage("sampling again")
    _compare(course, sampler, (prompt, other, empty), sampled.after, (started, second))
    if started is None and spec.image_to_image:
        teller.stage("sampling from a picture")
        made = [sampler.sample(prompt, empty, guidance=spec.guidance, picture=each) for each in (first, second)]
        steps = made[0].steps
        teller.tell(image_to_image={"latents": steps, "difference": difference(made[0].latents, made[1].latents)})
    try_grid(course, sampler, picture=started)


def _try_text_encoder(course: Course) -> None:
    """Tell what a text encoder alone makes of two prompts."""
    course.teller.stage("encoding prompts")
    encoding = encoding_of(course.spec, course.modules, course.place)
    prompt, other = (encoding.encode(text) for text in course.spec.prompts[:2])
    course.teller.tell(text=_text_statistics(prompt, other))


def _round_trip(course: Course) -> torch.Tensor | None:
    """The latents of the drawn pictures (``None``: not finite), after telling how well they come back."""
    pictures = images.drawn(min(course.spec.size, 256))
    latents = course.encoded(torch.stack([torch.from_numpy(each).permute(2, 0, 1) for each in pictures]))
    decoded = course.decoded(latents)
    told: dict[str, Any] = {"latents": statistics(latents), "non_finite": statistics(decoded)["non_finite"]}
    if not told["non_finite"]:
        arrays = [np.clip(each, 0, 1) for each in decoded.permute(0, 2, 3, 1).cpu().numpy()]
        told["psnr"] = float(np.mean([images.psnr(*pair) for pair in zip(arrays, pictures, strict=True)]))
        if not course.spec.pipeline:
            sheet = np.concatenate([np.concatenate(pair, axis=1) for pair in zip(pictures, arrays, strict=True)])
            course.keep(course.png(sheet))
            course.compare_with_reference(sheet)
    course.teller.tell(vae=told)
    return None if told["latents"]["non_finite"] else latents


def _compare(
    course: Course,
    sampler: Sampler,
    encoded: tuple[Encoded, Encoded, Encoded],
    after: dict[int, torch.Tensor],
    pictures: tuple[torch.Tensor | None, torch.Tensor],
) -> None:
    """Tell by how much latents differ from the image's when nothing, the prompt and the guidance are changed.

    *pictures* are what the image was made from, if anything, and another one, which is then tried as well.
    """
    steps = min(_COMPARED_STEPS, max(after))
    prompt, other, empty = encoded
    started, another = pictures
    runs = {
        "repetition": (prompt, course.spec.guidance, started),
        "other_prompt": (other, course.spec.guidance, started),
    }
    if course.spec.guidance > 1:  # below it nothing is guided
        runs["no_guidance"] = (prompt, 1.0, started)
    if started is not None:
        runs["other_picture"] = (prompt, course.spec.guidance, another)
    differences = {}
    for name, (conditioning, guidance, picture) in runs.items():
        again = sampler.sample(conditioning, empty, guidance=guidance, stop_after=steps, picture=picture)
        differences[name] = difference(again.after[steps], after[steps])
    course.teller.tell(differences=differences)


def _text_statistics(prompt: Encoded, other: Encoded) -> dict[str, float]:
    return {
        **statistics(prompt.tokens),
        "difference": difference(prompt.tokens, other.tokens),
    }
