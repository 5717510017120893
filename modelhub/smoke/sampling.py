"""Sampling by diffusers' own pipelines, from prompts that are encoded here, watched at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from modelhub.smoke.encoding import Encoded, Vectors, encoding_of
from modelhub.smoke.loading import Place
from modelhub.smoke.pipelines import FROM_PICTURE, OLD_CALLBACK, picture_inputs, pipeline_of, steered, takes_size
from modelhub.smoke.probing import probe_flow, probe_unet, unpacked
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.steering import Steering

_SCHEDULERS = {"PNDMScheduler": DDIMScheduler, "DDIMScheduler": DDIMScheduler}
"""Samplers for the schedulers of published folders; PNDM's first steps are no image yet, DDIM's are one."""


@dataclass(slots=True)
class Sampled:
    """The latents after the last step that ran, and after each the share that is not finite and the deviation."""

    latents: torch.Tensor
    steps: list[dict[str, float]] = field(default_factory=list)
    after: dict[int, torch.Tensor] = field(default_factory=dict)


class _Enough(Exception):
    """As many steps were run as were asked for."""


class Sampler:
    """A model ready to generate."""

    def __init__(self, spec: SmokeSpec, modules: Mapping[str, Any], place: Place) -> None:
        self._spec, self._modules, self._place = spec, modules, place
        self._encoding = encoding_of(spec, modules, place)
        self.scheduler = _scheduler(spec.scheduler)
        self._pipelines: dict[str, Any] = {}

    def encode(self, text: str, vectors: Vectors | None = None) -> Encoded:
        """*text* as the pipelines of diffusers encode it, behind an embedding's *vectors*."""
        return self._encoding.encode(text, vectors)

    def empty(self, prompt: Encoded) -> Encoded:
        """What *prompt* is held against: the encoding of the spec's negative prompt."""
        return self._encoding.empty(prompt)

    def sample(
        self,
        prompt: Encoded,
        empty: Encoded,
        *,
        guidance: float,
        stop_after: int | None = None,
        picture: torch.Tensor | None = None,
        steering: Steering | None = None,
        seed: int | None = None,
    ) -> Sampled:
        """Latents for *prompt* against *empty*, from the noise of *seed* (``None``: the test's); at most *stop_after*
        steps are run.

        *picture*, ``(1, 3, size, size)`` from 0 to 1, is what the pipeline starts from, if it is one that does or that
        has a twin that does; *steering* what it is steered by.
        """
        name = self._spec.pipeline
        if picture is not None:
            name = FROM_PICTURE.get(name, name)
        modules, given = self._modules, self._prompts(prompt, empty)
        if steering is not None:
            name, told = steered(name, steering)
            modules, given = {**modules, steering.part: steering.module}, given | told
        if name not in self._pipelines:
            self._pipelines[name] = pipeline_of(name, modules, self.scheduler)
        sampled = Sampled(torch.empty(0))

        def watch(step: int, latents: torch.Tensor) -> None:
            if latents.dim() == 3:
                latents = unpacked(latents, self._spec.size, self._spec.size, self._pipelines[name].vae_scale_factor)
            sampled.latents = latents
            sampled.after[step + 1] = latents.clone()
            sampled.steps.append(statistics(latents))
            if step + 1 == stop_after:
                raise _Enough

        if picture is not None:
            given |= picture_inputs(name, picture, self._spec.steps)
        if picture is None or takes_size(name):
            given |= {"height": self._spec.size, "width": self._spec.size}
        with suppress(_Enough):
            self._pipelines[name](
                **given,
                **_watched(name, watch),
                num_inference_steps=self._spec.steps,
                guidance_scale=guidance,
                generator=torch.Generator("cpu").manual_seed(self._spec.seed if seed is None else seed),
                output_type="latent",
            )
        return sampled

    @staticmethod
    def _prompts(prompt: Encoded, empty: Encoded) -> dict[str, Any]:
        """What every pipeline is given of the prompts."""
        given: dict[str, Any] = {"prompt_embeds": prompt.tokens, "negative_prompt_embeds": empty.tokens}
        if prompt.pooled is not None:
            given |= {"pooled_prompt_embeds": prompt.pooled, "negative_pooled_prompt_embeds": empty.pooled}
        return given

    def probe(self, latents: torch.Tensor, empty: Encoded) -> dict[str, float]:
        """The error of one denoising of noised *latents*, by what is taken to be predicted."""
        if "transformer" in self._modules:
            return probe_flow(self._spec, self._modules, latents, empty)
        return probe_unet(self._spec, self._modules, self.scheduler, latents, empty)


def _watched(name: str, watch: Callable[[int, torch.Tensor], None]) -> dict[str, Any]:
    """How the pipeline of the class *name* is told to call *watch* after every step."""

    def at_end(_pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        watch(step, values["latents"])
        return values

    if name in OLD_CALLBACK:
        return {"callback": lambda step, _time, latents: watch(step, latents)}
    return {"callback_on_step_end": at_end}


def _scheduler(config: Mapping[str, object]) -> Any:
    """The sampler for a published scheduler's *config*; both draw no noise of their own on the way."""
    name = str(config["_class_name"])
    if name == "FlowMatchEulerDiscreteScheduler":
        return FlowMatchEulerDiscreteScheduler(
            **{key: value for key, value in config.items() if key not in ("_class_name", "prediction_type")}
        )
    told = {key: value for key, value in config.items() if key in _OF_SCHEDULE}
    if name == "EulerDiscreteScheduler":
        return EulerDiscreteScheduler(**told)
    return _SCHEDULERS[name](**told, clip_sample=False, set_alpha_to_one=False)


_OF_SCHEDULE = frozenset(
    """beta_start beta_end beta_schedule num_train_timesteps prediction_type steps_offset timestep_spacing
    rescale_betas_zero_snr""".split()
)
"""What both samplers are told of a schedule; ``clip_sample`` would clip latents, and is DDIM's default."""


def statistics(latents: torch.Tensor) -> dict[str, float]:
    """The share of *latents* that is not finite, and their standard deviation."""
    finite = torch.isfinite(latents)
    return {"non_finite": float((~finite).float().mean()), "deviation": float(latents.float().std())}


def encode_picture(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    """The latents of *picture*, ``(n, 3, height, width)`` from -1 to 1, scaled as a UNet takes them."""
    given = picture.to(vae.device, vae.dtype)
    latents: torch.Tensor = vae.encode(given).latent_dist.mode() - (vae.config.shift_factor or 0.0)
    return latents * vae.config.scaling_factor


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The picture of *latents*, ``(n, 3, height, width)``, around -1 to 1, in fp32."""
    given = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    decoded: torch.Tensor = vae.decode(given, return_dict=False)[0]
    return decoded.float()
