"""Which folder which kind of model belongs in, for the programs that look for it there.

The first folder of a kind is where its models go; in the others, and below all of them, they are right as well. The
names are those of A1111's ``modules/paths.py``, ``sd_models.py`` and ``modelloader.py``, of Forge's ``modules_forge``
and of ComfyUI's ``folder_paths.py``, which also knows two older names.
"""

from __future__ import annotations

from collections.abc import Mapping

A1111: Mapping[str, tuple[str, ...]] = {
    "checkpoint": ("models/Stable-diffusion",),
    "diffusion-model": ("models/Stable-diffusion",),
    "vae": ("models/VAE",),
    "tiny-vae": ("models/VAE-approx",),
    "text-encoder": ("models/text_encoder",),
    "lora": ("models/Lora", "models/LyCORIS"),
    "embedding": ("embeddings", "models/embeddings"),
    "hypernetwork": ("models/hypernetworks",),
    "controlnet": ("models/ControlNet",),
    "t2i-adapter": ("models/ControlNet",),
    "ip-adapter": ("models/ControlNet",),
    "upscaler": ("models/ESRGAN", "models/RealESRGAN", "models/SwinIR", "models/DAT", "models/HAT", "models/ScuNET"),
}

COMFYUI: Mapping[str, tuple[str, ...]] = {
    "checkpoint": ("models/checkpoints",),
    "diffusion-model": ("models/diffusion_models", "models/unet"),
    "vae": ("models/vae",),
    "tiny-vae": ("models/vae_approx",),
    "text-encoder": ("models/text_encoders", "models/clip"),
    "image-encoder": ("models/clip_vision",),
    "lora": ("models/loras",),
    "embedding": ("models/embeddings",),
    "hypernetwork": ("models/hypernetworks",),
    "controlnet": ("models/controlnet", "models/t2i_adapter"),
    "t2i-adapter": ("models/controlnet", "models/t2i_adapter"),
    "ip-adapter": ("models/ipadapter",),
    "style-model": ("models/style_models",),
    "gligen": ("models/gligen",),
    "motion-module": ("models/animatediff_models",),
    "upscaler": ("models/upscale_models",),
    "latent-upscaler": ("models/latent_upscale_models",),
}

DIALECTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {"a1111": A1111, "comfyui": COMFYUI}
