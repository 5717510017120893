"""Sampling by diffusers' own pipelines, from prompts that are encoded here, watched at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from modelhub.smoke.loading import Place
from modelhub.smoke.pipelines import (
    FROM_PICTURE,
    OLD_CALLBACK,
    beside_noise,
    picture_inputs,
    pipeline_of,
    steered,
    takes_size,
)
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.steering import Steering
from modelhub.smoke.tokens import tokenizer_for

_SCHEDULERS = {"PNDMScheduler": DDIMScheduler, "DDIMScheduler": DDIMScheduler}
"""Samplers for the schedulers of published folders; PNDM's first steps are no image yet, DDIM's are one."""

PROBED_STEP = 500
"""The noise step, of 1000, at which the UNet is probed: half noise, half picture."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the UNet takes it: the text's encoding, and SDXL's pooled one."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None

    def zeros(self) -> Encoded:
        return Encoded(torch.zeros_like(self.tokens), None if self.pooled is None else torch.zeros_like(self.pooled))


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
        self._encoders = {name: modules[name] for name in ("text_encoder", "text_encoder_2") if name in modules}
        self._tokenizers = [tokenizer_for(encoder.config, spec.tokenizer) for encoder in self._encoders.values()]
        self.scheduler = _scheduler(spec.scheduler)
        self._pipelines: dict[str, Any] = {}

    def encode(self, text: str, vectors: Mapping[str, torch.Tensor] | None = None) -> Encoded:
        """*text* as the pipelines of diffusers encode it: SDXL by the last but one layer of its encoders.

        *vectors*, ``(n, width)`` by encoder, stand before the words as if a token's name were written there.
        """
        outputs = []
        for (name, encoder), tokenizer in zip(self._encoders.items(), self._tokenizers, strict=True):
            own = (vectors or {}).get(name)
            ids = tokenizer(text) if own is None else _with_room(tokenizer(text), len(own))
            with _standing_in(encoder, own):
                outputs.append(encoder(torch.tensor([ids], device=self._place.device), output_hidden_states=True))
        if "text_encoder_2" not in self._encoders:
            return Encoded(outputs[0][0])
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return Encoded(tokens, outputs[-1][0])

    def empty(self, prompt: Encoded) -> Encoded:
        """What *prompt* is held against: the encoding of the spec's negative prompt; without words, it is zero with
        both encoders of SDXL."""
        if not self._spec.negative and len(self._encoders) > 1:
            return prompt.zeros()
        return self.encode(self._spec.negative)

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
        """The error of one denoising of noised *latents*, taken as noise and taken as velocity.

        It is the mean squared error over the target's mean square, so that predicting nothing makes 1.
        """
        share = self.scheduler.alphas_cumprod[PROBED_STEP]
        kept, added = float(share**0.5), float((1 - share) ** 0.5)
        noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(self._spec.seed)).to(latents)
        extra: dict[str, Any] = {}
        if empty.pooled is not None:
            side = float(self._spec.size)
            last = [side, side] if len(self._encoders) > 1 else [6.0]  # the refiner's: an aesthetic score
            sizes = torch.tensor([[side, side, 0.0, 0.0, *last]], device=latents.device, dtype=latents.dtype)
            extra["added_cond_kwargs"] = {
                "text_embeds": empty.pooled.expand(len(latents), -1),
                "time_ids": sizes.expand(len(latents), -1),
            }
        beside = beside_noise(self._spec.pipeline, latents, self._modules["vae"].config.scaling_factor)
        told = self._modules["unet"](
            torch.cat([kept * latents + added * noise, *beside], dim=1),
            torch.tensor(PROBED_STEP, device=latents.device),
            encoder_hidden_states=empty.tokens.expand(len(latents), -1, -1),
            **extra,
        )[0].float()
        velocity = kept * noise - added * latents
        return {
            "epsilon": _relative_error(told, noise.float()),
            "v_prediction": _relative_error(told, velocity.float()),
        }


def _watched(name: str, watch: Callable[[int, torch.Tensor], None]) -> dict[str, Any]:
    """How the pipeline of the class *name* is told to call *watch* after every step."""

    def at_end(_pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        watch(step, values["latents"])
        return values

    if name in OLD_CALLBACK:
        return {"callback": lambda step, _time, latents: watch(step, latents)}
    return {"callback_on_step_end": at_end}


def _with_room(ids: list[int], count: int) -> list[int]:
    """*ids* with *count* places between the start and the words, the last of which may be lost; the end, the highest
    id, stays."""
    end = ids.index(max(ids))
    words = ids[1:end]
    count = min(count, len(ids) - 2)
    kept = [ids[0], *ids[:1] * count, *words[: len(ids) - 2 - count], ids[end]]
    return kept + ids[-1:] * (len(ids) - len(kept))


@contextmanager
def _standing_in(encoder: Any, vectors: torch.Tensor | None) -> Iterator[None]:
    """Within it, *vectors* stand for the tokens behind the start."""
    if vectors is None:
        yield
        return

    def put(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        room = output[:, 1:-1]
        return torch.cat(
            [output[:, :1], vectors[None, : room.shape[1]].to(output), room[:, len(vectors) :], output[:, -1:]], 1
        )

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def _scheduler(config: Mapping[str, object]) -> Any:
    """The sampler for a published scheduler's *config*; both draw no noise of their own on the way."""
    name = str(config["_class_name"])
    told = {key: value for key, value in config.items() if key in _OF_SCHEDULE}
    if name == "EulerDiscreteScheduler":
        return EulerDiscreteScheduler(**told)
    return _SCHEDULERS[name](**told, clip_sample=False, set_alpha_to_one=False)


_OF_SCHEDULE = frozenset(
    """beta_start beta_end beta_schedule num_train_timesteps prediction_type steps_offset timestep_spacing
    rescale_betas_zero_snr""".split()
)
"""What both samplers are told of a schedule; ``clip_sample`` would clip latents, and is DDIM's default."""


def _relative_error(found: torch.Tensor, target: torch.Tensor) -> float:
    return float(((found - target) ** 2).mean() / (target**2).mean())


def statistics(latents: torch.Tensor) -> dict[str, float]:
    """The share of *latents* that is not finite, and their standard deviation."""
    finite = torch.isfinite(latents)
    return {"non_finite": float((~finite).float().mean()), "deviation": float(latents.float().std())}


def encode_picture(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    """The latents of *picture*, ``(n, 3, height, width)`` from -1 to 1, scaled as a UNet takes them."""
    given = picture.to(vae.device, vae.dtype)
    latents: torch.Tensor = vae.encode(given).latent_dist.mode() * vae.config.scaling_factor
    return latents


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The picture of *latents*, ``(n, 3, height, width)``, around -1 to 1, in fp32."""
    decoded: torch.Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return decoded.float()
