"""Putting another file's VAE into a checkpoint."""

from __future__ import annotations

from modelhub.convert.base import Assembly, Draft
from modelhub.errors import ConversionError
from modelhub.tensors import Leftover

PREFIX = "first_stage_model."
"""Where the single files of SD 1, SD 2 and SDXL have their VAE."""

_HEADS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def swap_vae(draft: Draft, vae: Draft, name: str, vae_name: str) -> Draft:
    """*draft* with the VAE of *vae*: a VAE's own file in ``ldm``'s names, or another checkpoint.

    Both are known by their files' names. A checkpoint without a VAE is given one. Raises :class:`ConversionError` where
    *vae* has none of ``ldm``'s names, where *draft* is no checkpoint, and where the two VAEs differ in names or shapes.
    """
    new = {key: made for key, made in vae.tensors.items() if key.startswith(PREFIX)}
    if not new:
        new = {PREFIX + key: made for key, made in vae.tensors.items() if key.startswith(_HEADS)}
    if PREFIX + "decoder.conv_in.weight" not in new or any(".up_blocks." in key for key in new):
        raise ConversionError(
            f"{vae_name}: no VAE with the names that single files use was found in it",
            hint="name a .vae.pt or .vae.safetensors file, or a whole checkpoint",
        )
    if not any(key.startswith("model.diffusion_model.") for key in draft.tensors):
        raise ConversionError(f"{name}: a VAE can only be put into a checkpoint, and this is none")
    old = {key: made for key, made in draft.tensors.items() if key.startswith(PREFIX)}
    for key, made in old.items():
        if key in new and new[key].shape != made.shape:
            raise ConversionError(f"{vae_name}: its {key!r:.100} has the shape {new[key].shape}, not {made.shape}")
        if key not in new and key.startswith(tuple(PREFIX + head for head in _HEADS)):
            raise ConversionError(f"{vae_name}: it has no {key!r:.100}, so it is not a VAE for {name}")
    foreign = sorted(key for key in new if old and key not in old)
    if foreign:
        raise ConversionError(f"{vae_name}: its {foreign[0]!r:.100} has no place in {name}")
    tensors: dict[str, Assembly] = {key: made for key, made in draft.tensors.items() if key not in old} | new
    left = [Leftover(key, f"replaced by the tensor of {vae_name}") for key in old]
    return draft.changed(tensors, f"the VAE is that of {vae_name}: {len(new)} tensors", left=left)
