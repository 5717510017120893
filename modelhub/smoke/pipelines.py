"""diffusers' pipelines over modules of ours, and the pictures that some of them start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    FluxImg2ImgPipeline,
    FluxPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
)

from modelhub.smoke.steering import Steering

_CLASSES: Mapping[str, Any] = {
    each.__name__: each
    for each in (
        FluxImg2ImgPipeline,
        FluxPipeline,
        StableDiffusion3Img2ImgPipeline,
        StableDiffusion3Pipeline,
        StableDiffusionAdapterPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionDepth2ImgPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionInstructPix2PixPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLAdapterPipeline,
        StableDiffusionXLControlNetPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
        StableDiffusionXLInstructPix2PixPipeline,
        StableDiffusionXLPipeline,
    )
}
FROM_PICTURE = {
    "FluxPipeline": "FluxImg2ImgPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3Img2ImgPipeline",
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
}
"""The pipelines that start from a picture, by those from text that have the same modules."""
_STEERED = {
    ("StableDiffusionPipeline", "adapter"): "StableDiffusionAdapterPipeline",
    ("StableDiffusionPipeline", "controlnet"): "StableDiffusionControlNetPipeline",
    ("StableDiffusionXLPipeline", "adapter"): "StableDiffusionXLAdapterPipeline",
    ("StableDiffusionXLPipeline", "controlnet"): "StableDiffusionXLControlNetPipeline",
}
"""The pipelines that are steered by a part more, by those that are not."""

OLD_CALLBACK = frozenset(
    {
        "StableDiffusionAdapterPipeline",
        "StableDiffusionXLAdapterPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    }
)
"""The pipelines that are watched by ``callback``, which diffusers had before ``callback_on_step_end``."""

STRENGTH = 0.6
"""How much of the noise a picture that is started from is given."""


def pipeline_of(name: str, modules: Mapping[str, Any], scheduler: Any) -> Any:
    """The pipeline of the class *name*, which makes no sound."""
    given: dict[str, Any] = {"vae": modules["vae"], "scheduler": scheduler, "tokenizer": None}
    given["text_encoder"] = modules.get("text_encoder")
    if "transformer" in modules:
        given |= _of_flow(name, modules)
    else:
        given |= _of_unet(name, modules)
    made = _CLASSES[name](**given)
    made.set_progress_bar_config(disable=True)
    return made


def _of_flow(name: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    encoders = ("text_encoder_2",) if name.startswith("Flux") else ("text_encoder_2", "text_encoder_3")
    given = {each: modules.get(each) for each in encoders}
    given |= {each.replace("text_encoder", "tokenizer"): None for each in encoders}
    return {"transformer": modules["transformer"], **given}


def _of_unet(name: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {"unet": modules["unet"]}
    given |= {part: modules[part] for part in ("adapter", "controlnet") if part in modules}
    if "XL" in name:
        given |= {"text_encoder_2": modules["text_encoder_2"], "tokenizer_2": None}
        if "Adapter" not in name:
            given["add_watermarker"] = False
        if "text_encoder" not in modules:  # the refiner
            given |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    elif "Depth" in name:
        given |= {"depth_estimator": None, "feature_extractor": None}
    else:
        given |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return given


def steered(name: str, steering: Steering) -> tuple[str, dict[str, Any]]:
    """The pipeline of the class *name* that *steering* steers, and what that is given of it."""
    scale = "adapter_conditioning_scale" if steering.part == "adapter" else "controlnet_conditioning_scale"
    return _STEERED[name, steering.part], {"image": steering.picture, scale: steering.strength}


def takes_size(name: str) -> bool:
    """Whether the pipeline of the class *name*, which starts from a picture, has to be told its size all the same."""
    return _of_a_flow(name) or "Inpaint" in name or name == "StableDiffusionXLInstructPix2PixPipeline"


def _of_a_flow(name: str) -> bool:
    return name.startswith(("Flux", "StableDiffusion3"))


def takes_picture(name: str) -> bool:
    """Whether the pipeline of the class *name* starts from a picture."""
    return name not in FROM_PICTURE


def picture_inputs(name: str, picture: torch.Tensor, steps: int) -> dict[str, Any]:
    """What the pipeline is given of *picture*, ``(1, 3, height, width)`` from 0 to 1; inpainting gets a mask of its
    middle, a quarter of it, and a model of depth its luminance for distances, with nothing else to see. Of the *steps*,
    at least one is run."""
    if "Inpaint" in name:
        mask = torch.zeros_like(picture[:, :1])
        height, width = picture.shape[-2:]
        mask[..., height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 1
        return {"image": picture, "mask_image": mask, "strength": 1.0}
    if "Pix2Pix" in name:
        return {"image": picture}
    if "Depth" in name:
        return {"image": torch.full_like(picture, 0.5), "depth_map": picture.mean(dim=1), "strength": 1.0}
    if _of_a_flow(name):  # its first step is from noise alone
        return {"image": picture, "strength": min(STRENGTH, (steps - 1) / steps)}
    return {"image": picture, "strength": max(STRENGTH, 1 / steps)}


def beside_noise(name: str, latents: torch.Tensor, scaling: float) -> list[torch.Tensor]:
    """What the UNet of the pipeline takes behind noised *latents*: inpainting nothing masked and the picture,
    InstructPix2Pix the picture as the encoder gives it, a model of depth one distance for everything."""
    if "Inpaint" in name:
        return [torch.zeros_like(latents[:, :1]), latents]
    if "Depth" in name:
        return [torch.zeros_like(latents[:, :1])]
    return [latents / scaling] if "Pix2Pix" in name else []
