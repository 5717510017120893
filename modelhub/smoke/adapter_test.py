"""Trying an adapter: the base alone, and from the same noise the base with the adapter on it or beside it."""

from __future__ import annotations

from typing import Any

from modelhub.smoke.applying import Adapted
from modelhub.smoke.course import Course, difference
from modelhub.smoke.grid import try_grid
from modelhub.smoke.pipelines import takes_picture
from modelhub.smoke.spec import AdapterSpec
from modelhub.smoke.steering import Control

_COMPARED_STEPS = 2
"""Steps after which two drawings are compared."""


def try_adapter(course: Course, adapter: AdapterSpec, known: dict[str, Any]) -> None:
    """Tell what *adapter* is on the course's modules, and what it makes of the image.

    *known* is what the base made alone, by what was asked for. A base for inpainting, say, starts from a drawn picture.
    """
    spec, teller, sampler = course.spec, course.teller, course.sampler()
    teller.stage("sampling with the base alone")
    prompt = sampler.encode(spec.prompts[0])
    empty = sampler.empty(prompt)
    picture = course.drawn()[0] if takes_picture(spec.pipeline) else None
    asked = repr((spec.prompts[0], spec.steps, spec.size, spec.seed, spec.guidance, spec.negative, spec.tokenizer))
    if asked not in known:
        alone = sampler.sample(prompt, empty, guidance=spec.guidance, picture=picture)
        told: dict[str, Any] = {"latents": alone.steps}
        if not alone.steps[-1]["non_finite"]:
            told["image"] = course.picture(alone.latents, kept=False)
        known[asked] = (alone, told)
    alone, told = known[asked]
    teller.tell(base=told)
    teller.stage("applying it")
    adapted = Adapted(course.modules, adapter, course.files)
    control = None if adapter.control is None else Control(adapter.control, course.files, course.place, spec.size)
    made = adapted.told if control is None else {"control": control.told}
    teller.tell(adapter=made)
    if any(each[what]["count"] for each in made.values() for what in ("non_finite", "missing") if what in each):
        return
    if adapter.networks or control is not None:
        with adapted.on(0.0):
            steering = None if control is None else control.on(0.0)
            idle = sampler.sample(
                prompt, empty, guidance=spec.guidance, stop_after=1, picture=picture, steering=steering
            )
        teller.tell(idle_difference=difference(idle.after[1], alone.after[1]))
    teller.stage("sampling with it")
    with adapted.on():
        prompt = sampler.encode(spec.prompts[0], adapted.vectors)
        empty = sampler.empty(prompt)
        steering = None if control is None else control.on()
        sampled = sampler.sample(prompt, empty, guidance=spec.guidance, picture=picture, steering=steering)
    teller.tell(latents=sampled.steps, adapter_difference=difference(sampled.latents, alone.latents))
    if control is not None:
        teller.stage("sampling with another drawing")
        steps = min(_COMPARED_STEPS, spec.steps)
        steering = control.on(other=True)
        other = sampler.sample(prompt, empty, guidance=spec.guidance, stop_after=steps, steering=steering)
        teller.tell(drawing_difference=difference(other.latents, sampled.after[steps]))
    if not sampled.steps[-1]["non_finite"]:
        teller.stage("decoding the image")
        teller.tell(image=course.picture(sampled.latents))
        with adapted.on():
            steering = None if control is None else control.on()
            try_grid(course, sampler, picture=picture, vectors=adapted.vectors, steering=steering)
