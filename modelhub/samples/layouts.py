"""What real model files contain: names, element types and shapes, without any weights.

At ``width=1`` a checkpoint's layout is exactly that of the files people have; a smaller *width* scales hidden
widths so that a sample is a few megabytes, and keeps what architectures are told apart by: every name, the number
of dimensions, latent channels, the first convolution, the context width of the cross attention, the width of the
pooled conditioning and that of the text encoders' embedding tables.
"""

from __future__ import annotations

from typing import Literal

from modelhub.samples.adapters import Base, Dialect, embedding, hypernetwork, lora
from modelhub.samples.autoencoder import autoencoder
from modelhub.samples.modules import Layout, Named, Shape
from modelhub.samples.text_encoders import CLIP_G, CLIP_H, CLIP_L, clip_text_model, open_clip
from modelhub.samples.unet import UNETS, ldm_unet
from modelhub.tensors import DType

__all__ = [
    "Architecture",
    "Base",
    "Dialect",
    "Layout",
    "Shape",
    "checkpoint",
    "ema_name",
    "embedding",
    "hypernetwork",
    "lora",
    "vae",
]

Architecture = Literal["sd-1", "sd-2", "sdxl", "sdxl-refiner"]

_SCHEDULE = (  # the buffers of DDPM.register_schedule in CompVis/latent-diffusion (ddpm.py)
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
_TIMESTEPS = 1000


def checkpoint(
    architecture: Architecture,
    *,
    width: float = 1.0,
    ema: bool = False,
    v_prediction: bool = False,
    dtype: DType = DType.F16,
) -> Layout:
    """A single-file checkpoint under its LDM (SD) or SGM (SDXL) names, in the order of ``state_dict()``.

    *ema* adds the averaged copy of the UNet; *v_prediction* the zero-size marker keys that SDXL models trained
    so carry; *dtype* is that of the weights (schedule buffers, counters and indices keep their own).
    """
    layout: Layout = {}
    if architecture in {"sd-1", "sd-2"}:
        layout.update((name, (DType.F32, (_TIMESTEPS,))) for name in _SCHEDULE)
    unet = list(_prefixed("model.diffusion_model.", ldm_unet(UNETS[architecture], width)))
    layout.update((name, (dtype, shape)) for name, shape in unet)
    if ema:
        layout["model_ema.decay"] = (DType.F32, ())
        layout["model_ema.num_updates"] = (DType.I32, ())
        layout.update((ema_name(name), (dtype, shape)) for name, shape in unet)
    layout.update((name, (dtype, shape)) for name, shape in _prefixed("first_stage_model.", autoencoder(width)))
    for name, shape in _text_encoders(architecture, width):
        layout[name] = (DType.I64 if name.endswith(".position_ids") else dtype, shape)
    if v_prediction:
        layout["v_pred"] = layout["ztsnr"] = (DType.I64, (0,))
    return layout


def ema_name(name: str) -> str:
    """The name of *name*'s averaged copy: its dots are gone (``LitEma`` in CompVis/latent-diffusion)."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def vae(*, width: float = 1.0, dtype: DType = DType.F32) -> Layout:
    """A VAE on its own, under LDM names without a prefix."""
    return {name: (dtype, shape) for name, shape in autoencoder(width)}


def _text_encoders(architecture: Architecture, width: float) -> Named:
    if architecture == "sd-1":
        yield from _prefixed("cond_stage_model.transformer.", clip_text_model(CLIP_L, width))
    elif architecture == "sd-2":
        yield from _prefixed("cond_stage_model.model.", open_clip(CLIP_H, width))
    elif architecture == "sdxl":
        yield from _prefixed("conditioner.embedders.0.transformer.", clip_text_model(CLIP_L, width))
        yield from _prefixed("conditioner.embedders.1.model.", open_clip(CLIP_G, width))
    else:
        yield from _prefixed("conditioner.embedders.0.model.", open_clip(CLIP_G, width))


def _prefixed(prefix: str, named: Named) -> Named:
    for name, shape in named:
        yield prefix + name, shape
