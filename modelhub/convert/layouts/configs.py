"""The JSON files of a diffusers folder, from the shapes of its components and the little that shapes do not say.

What a file cannot tell is as in the folders that the models' makers published: number of attention heads, activation
functions, noise schedule, scaling of the latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelhub.convert.layouts import module_configs
from modelhub.convert.layouts.base import Shapes, dimension, last_of
from modelhub.convert.layouts.text_encoders import POSITIONS
from modelhub.errors import ConversionError

Config = Mapping[str, object]

DIFFUSERS_VERSION = "0.42.1"
"""The version whose file format this is."""

_PIPELINES = {
    "sd": {
        4: "StableDiffusionPipeline",
        5: "StableDiffusionDepth2ImgPipeline",
        8: "StableDiffusionInstructPix2PixPipeline",
        9: "StableDiffusionInpaintPipeline",
    },
    "unclip": {4: "StableUnCLIPImg2ImgPipeline"},
    "sdxl": {
        4: "StableDiffusionXLPipeline",
        8: "StableDiffusionXLInstructPix2PixPipeline",
        9: "StableDiffusionXLInpaintPipeline",
    },
    "refiner": {4: "StableDiffusionXLImg2ImgPipeline"},
}
"""diffusers' pipelines by kind of model and input channels of its UNet."""

_NOT_IN_CHECKPOINTS: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionDepth2ImgPipeline": ("depth_estimator", "feature_extractor"),
    "StableUnCLIPImg2ImgPipeline": (
        "feature_extractor",
        "image_encoder",
        "image_normalizer",
        "image_noising_scheduler",
    ),
}
"""Parts that have to be given when such a pipeline is loaded: no checkpoint has them in a form that diffusers takes."""

_ABSENT = [None, None]
"""What ``model_index.json`` says of a part that the folder does not have."""

_CONDITIONING = {
    (768, None): "sd",
    (1024, None): "sd",
    (1024, 1536): "unclip",
    (1024, 2048): "unclip",
    (2048, 2816): "sdxl",
    (1280, 2560): "refiner",
}
"""Kinds of model by the widths of text encoding and pooled conditioning that the UNet takes."""

_NOISE = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000}
"""The noise schedule of every Stable Diffusion (``linear_start`` and ``linear_end`` of CompVis' v1-inference.yaml)."""


@dataclass(frozen=True, slots=True)
class Told:
    """What names and shapes do not say.

    ``prediction_type`` is diffusers' word (``None``: ``v_prediction`` where a marker says so, else ``epsilon``);
    ``latents`` the mean and the standard deviation of the latents by channel, which Playground 2.5 has in ``edm_mean``
    and ``edm_std``; ``tokenizers`` whether the folder will have their files.
    """

    prediction_type: str | None = None
    latents: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    tokenizers: bool = False


def folder_configs(components: Mapping[str, Shapes], checkpoint: Shapes, told: Told) -> Mapping[str, Config]:
    """The JSON files of the folder with *components*, diffusers names and shapes, made from *checkpoint*.

    Raises :class:`ConversionError` where diffusers has no pipeline for such a model.
    """
    unet = components.get("unet")
    kind = _kind(unet) if unet is not None else "sdxl" if "text_encoder_2" in components else "sd"
    xl = kind in {"sdxl", "refiner"}
    prediction = told.prediction_type if told.prediction_type in {"epsilon", "v_prediction"} else "epsilon"
    if told.prediction_type is None and {"v_pred", "edm_vpred.sigma_max"} & set(checkpoint):
        prediction = "v_prediction"
    if "edm_mean" in checkpoint and told.latents is None:
        raise ConversionError("its edm_mean and edm_std, which the VAE's configuration needs, cannot be read")
    scheduler = _scheduler(kind, prediction, checkpoint)
    size = 128 if xl else 96 if _is_sd2(components) and prediction == "v_prediction" else 64

    configs: dict[str, Config] = {"scheduler/scheduler_config.json": scheduler}
    if unet is not None:
        upcast = kind == "sd" and _is_sd2(components) and prediction == "v_prediction"
        configs["unet/config.json"] = module_configs.unet(unet, size, upcast_attention=upcast)
    if "vae" in components:
        configs["vae/config.json"] = module_configs.vae(components["vae"], size, xl=xl, latents=told.latents)
    for name in ("text_encoder", "text_encoder_2"):
        if name in components:
            configs[f"{name}/config.json"] = module_configs.text_encoder(components[name])
            if told.tokenizers:
                configs |= module_configs.tokenizer(name, components[name])
    index = _model_index(kind, components, scheduler, told)
    return {"model_index.json": index} | {
        path: {**config, "_diffusers_version": DIFFUSERS_VERSION} if "_class_name" in config else config
        for path, config in configs.items()
    }


def _kind(unet: Shapes) -> str:
    context = last_of(unet, ".attn2.to_k.weight")
    pooled = last_of(unet, "add_embedding.linear_1.weight") or last_of(unet, "class_embedding.linear_1.weight")
    kind = _CONDITIONING.get((context or 0, pooled))
    if kind is None:
        raise ConversionError(
            f"diffusers has no pipeline of Stable Diffusion 1, 2 or XL for a UNet that takes text encodings {context} "
            f"wide and pooled conditioning {pooled} wide"
        )
    return kind


def _is_sd2(components: Mapping[str, Shapes]) -> bool:
    """Whether text encodings are 1024 wide, as CLIP ViT-H's are."""
    width = last_of(components.get("unet", {}), ".attn2.to_k.weight")
    return (width or last_of(components.get("text_encoder", {}), POSITIONS)) == 1024


def _scheduler(kind: str, prediction: str, checkpoint: Shapes) -> Config:
    """The scheduler that the makers published with such a model, for what it predicts."""
    if "edm_mean" in checkpoint:  # Playground 2.5
        return {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "rho": 7.0,
            "sigma_data": 0.5,
            "sigma_max": 80.0,
            "sigma_min": 0.002,
            "solver_order": 2,
        }
    if "edm_vpred.sigma_max" in checkpoint:  # CosXL
        return {
            "_class_name": "EDMEulerScheduler",
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "sigma_data": 1.0,
            "sigma_max": 120.0,
            "sigma_min": 0.002,
            "sigma_schedule": "exponential",
        }
    common = _NOISE | {"prediction_type": prediction, "steps_offset": 1, "trained_betas": None}
    zero_snr: dict[str, object] = {}
    if "ztsnr" in checkpoint:
        zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if kind in {"sdxl", "refiner"}:
        euler = {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "use_karras_sigmas": False}
        return common | euler | {"timestep_spacing": "leading"} | zero_snr
    if prediction == "epsilon":
        return common | {"_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
    return common | {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False} | zero_snr


def _model_index(kind: str, components: Mapping[str, Shapes], scheduler: Config, told: Told) -> Config:
    """``model_index.json``; a part that the folder does not have is there as nothing."""
    channels = dimension(components["unet"], "conv_in.weight", 1) if "unet" in components else 4
    pipeline = _PIPELINES[kind].get(channels)
    if pipeline is None:
        raise ConversionError(f"diffusers has no pipeline for such a UNet of {channels} input channels")
    with_projection = {"text_encoder_2": "CLIPTextModelWithProjection"}
    classes: dict[str, list[str]] = {"scheduler": ["diffusers", str(scheduler["_class_name"])]}
    if "unet" in components:
        classes["unet"] = ["diffusers", "UNet2DConditionModel"]
    if "vae" in components:
        classes["vae"] = ["diffusers", "AutoencoderKL"]
    for name in ("text_encoder", "text_encoder_2"):
        if name in components:
            classes[name] = ["transformers", with_projection.get(name, "CLIPTextModel")]
            if told.tokenizers:
                classes[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    parts = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]
    settings: dict[str, object]
    if kind in {"sdxl", "refiner"}:
        parts += ["text_encoder_2", "tokenizer_2"]
        settings = {"force_zeros_for_empty_prompt": kind == "sdxl"}
        if pipeline != "StableDiffusionXLInstructPix2PixPipeline":
            parts += ["feature_extractor", "image_encoder"]
        elif scheduler["_class_name"] == "EDMEulerScheduler":
            settings["is_cosxl_edit"] = True
        if kind == "refiner":
            settings["requires_aesthetics_score"] = True
    elif pipeline in _NOT_IN_CHECKPOINTS:
        parts += _NOT_IN_CHECKPOINTS[pipeline]
        settings = {}
    else:
        parts += ["feature_extractor", "image_encoder", "safety_checker"]
        settings = {"requires_safety_checker": False}
    index: dict[str, object] = {part: classes.get(part, _ABSENT) for part in parts}
    return {"_class_name": pipeline, "_diffusers_version": DIFFUSERS_VERSION} | dict(sorted((index | settings).items()))


def given_when_loading(index: Config) -> tuple[str, ...]:
    """The parts beside its components that a pipeline with the ``model_index.json`` *index* has to be given by hand."""
    encoders = [part for part in ("text_encoder", "text_encoder_2") if index.get(part, _ABSENT) != _ABSENT]
    tokenizers = (part.replace("text_encoder", "tokenizer") for part in encoders)
    needed = (*tokenizers, *_NOT_IN_CHECKPOINTS.get(str(index["_class_name"]), ()))
    return tuple(part for part in needed if index.get(part) == _ABSENT)
