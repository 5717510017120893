"""One denoising of a picture that is known, half of it noise: what the network takes for noise, and how well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxPipeline

from modelhub.smoke.encoding import Encoded
from modelhub.smoke.pipelines import beside_noise
from modelhub.smoke.spec import SmokeSpec

PROBED_STEP = 500
"""The noise step, of 1000, at which the UNet or transformer is probed: half noise, half picture."""


def probe_unet(
    spec: SmokeSpec, modules: Mapping[str, Any], scheduler: Any, latents: torch.Tensor, empty: Encoded
) -> dict[str, float]:
    """The error of one denoising of noised *latents*, taken as noise and taken as velocity.

    It is the mean squared error over the target's mean square, so that predicting nothing makes 1. ``output`` is the
    standard deviation of what is predicted, which is about 1 for either target.
    """
    share = scheduler.alphas_cumprod[PROBED_STEP]
    kept, added = float(share**0.5), float((1 - share) ** 0.5)
    noise = _noise(spec, latents)
    extra: dict[str, Any] = {}
    if empty.pooled is not None:
        side = float(spec.size)
        both = "text_encoder" in modules and "text_encoder_2" in modules
        last = [side, side] if both else [6.0]  # the refiner's: an aesthetic score
        sizes = torch.tensor([[side, side, 0.0, 0.0, *last]], device=latents.device, dtype=latents.dtype)
        extra["added_cond_kwargs"] = {
            "text_embeds": empty.pooled.expand(len(latents), -1),
            "time_ids": sizes.expand(len(latents), -1),
        }
    beside = beside_noise(spec.pipeline, latents, modules["vae"].config.scaling_factor)
    told = modules["unet"](
        torch.cat([kept * latents + added * noise, *beside], dim=1),
        torch.tensor(PROBED_STEP, device=latents.device),
        encoder_hidden_states=empty.tokens.expand(len(latents), -1, -1),
        **extra,
    )[0].float()
    velocity = kept * noise - added * latents
    return {
        "epsilon": _relative_error(told, noise.float()),
        "v_prediction": _relative_error(told, velocity.float()),
        "output": float(told.std()),
    }


def probe_flow(spec: SmokeSpec, modules: Mapping[str, Any], latents: torch.Tensor, empty: Encoded) -> dict[str, float]:
    """The error of one step of a flow half way between *latents* and noise, likewise; its target is their difference.

    FLUX.1 dev, which was distilled from a guided model, is asked without guidance.
    """
    noise, share = _noise(spec, latents), PROBED_STEP / 1000
    mixed, count = (1 - share) * latents + share * noise, len(latents)
    transformer = modules["transformer"]
    given: dict[str, Any] = {
        "encoder_hidden_states": empty.tokens.expand(count, -1, -1),
        "pooled_projections": None if empty.pooled is None else empty.pooled.expand(count, -1),
    }
    time = torch.full((count,), share, device=latents.device, dtype=latents.dtype)
    if spec.pipeline == "FluxPipeline":
        channels, height, width = latents.shape[1:]
        guidance = torch.ones(count, device=latents.device) if transformer.config.guidance_embeds else None
        told = transformer(
            hidden_states=FluxPipeline._pack_latents(mixed, count, channels, height, width),
            timestep=time,
            guidance=guidance,
            txt_ids=torch.zeros(empty.tokens.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(
                count, height // 2, width // 2, latents.device, latents.dtype
            ),
            **given,
        )[0]
        told = unpacked(told, height * 8, width * 8, 8)
    else:
        told = transformer(hidden_states=mixed, timestep=time * 1000, **given)[0]
    told = told.float()
    return {"flow": _relative_error(told, (noise - latents).float()), "output": float(told.std())}


def unpacked(latents: torch.Tensor, height: int, width: int, factor: int) -> torch.Tensor:
    """FLUX.1's *latents*, ``(n, tokens, 4 * channels)``, as those of other models, ``(n, channels, height / factor,
    width / factor)``."""
    made: torch.Tensor = FluxPipeline._unpack_latents(latents, height, width, factor)
    return made


def _noise(spec: SmokeSpec, latents: torch.Tensor) -> torch.Tensor:
    return torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(spec.seed)).to(latents)


def _relative_error(found: torch.Tensor, target: torch.Tensor) -> float:
    return float(((found - target) ** 2).mean() / (target**2).mean())
