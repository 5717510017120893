"""The words identification answers in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RARER = "a rarer model, that has all of these layers too"
"""What the evidence for architectures says that are left out of account for how seldom they are met."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What decided a fact.

    ``fact`` names a field of :class:`Identity` (``"architecture"``), ``value`` what was concluded, ``by`` the sort of
    evidence (``key``, ``shape``, ``dtype``, ``byte``, ``metadata``, ``side file``, ``structure``, ``name``), ``detail``
    it in words, ``confidence`` ``high``, ``medium`` or ``low``.
    """

    fact: str
    value: str
    by: str
    detail: str
    confidence: str = "high"


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a LoRA or one of its relatives consists of.

    ``algorithms``, ``ranks`` and ``alphas`` count modules by value (an absent alpha is not counted); ``rank`` and
    ``alpha`` are the commonest ones; ``targets`` are the components it changes (``unet``, ``text_encoder`` ...).
    """

    dialect: str
    algorithms: Mapping[str, int]
    modules: int
    rank: int | None = None
    alpha: float | None = None
    ranks: Mapping[int, int] = field(default_factory=dict)
    alphas: Mapping[float, int] = field(default_factory=dict)
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model a file is; ``None`` where that is not known.

    ``kind``: checkpoint (a diffusers folder too), diffusion-model, lora, embedding, hypernetwork, vae, text-encoder,
    image-encoder, controlnet, style-model, motion-module, connector, vocoder, upscaler, latent-upscaler, restorer,
    face-restorer, colorizer, inpainter ...;
    ``architecture``: sd-1, sd-2, sdxl, sdxl-refiner, sd-3, flux ...; ``variant``: inpaint, pix2pix, depth ...;
    ``prediction_type``: epsilon, v_prediction, flow, edm; ``precision``: the element type of most floating point
    bytes, as ``fp16``, ``bf16``, ``fp32``, ``fp8_e4m3``, ``nf4``, ``svdquant`` ..., or ``mixed``;
    ``components``: what it contains (unet, text_encoder, vae, ema ...);
    ``candidates``: every architecture that the evidence leaves open when it cannot decide.
    """

    kind: str | None = None
    architecture: str | None = None
    variant: str | None = None
    prediction_type: str | None = None
    precision: str | None = None
    components: tuple[str, ...] = ()
    adapter: Adapter | None = None
    evidence: tuple[Evidence, ...] = ()
    candidates: tuple[str, ...] = ()
