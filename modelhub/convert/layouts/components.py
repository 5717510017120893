"""The components of a model: where each begins in a checkpoint, and the rules for its names."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

from modelhub.convert.layouts import text_encoders, unet, vae
from modelhub.convert.layouts.base import Place, Shapes


def _as_they_are(names: Shapes) -> Mapping[str, str]:
    return {name: name for name in names}


@dataclass(frozen=True, slots=True)
class Component:
    """A component's *name* in a folder and its *prefix* in a checkpoint, the names that say it is there (without the
    prefix), and the places of its tensors.

    *current* maps the names that the rules speak of to those a file has.
    """

    name: str
    prefix: str
    in_checkpoint: str
    in_folder: str
    ldm_places: Callable[[Shapes], Iterator[Place]]
    diffusers_places: Callable[[Shapes], Iterator[Place]]
    current: Callable[[Shapes], Mapping[str, str]] = _as_they_are


UNET = Component(
    "unet",
    "model.diffusion_model.",
    "input_blocks.0.0.weight",
    "conv_in.weight",
    unet.ldm_places,
    unet.diffusers_places,
)
VAE = Component(
    "vae",
    "first_stage_model.",
    "decoder.conv_in.weight",
    "decoder.conv_in.weight",
    vae.ldm_places,
    vae.diffusers_places,
    vae.current_names,
)


def _clip(prefix: str) -> Component:
    places = text_encoders.clip_places
    tokens = text_encoders.TOKENS
    return Component("text_encoder", prefix, tokens, tokens, places, places, text_encoders.current_names)


def _open_clip(name: str, prefix: str, ldm_places: Callable[[Shapes], Iterator[Place]]) -> Component:
    places = text_encoders.open_clip_places_in_folder
    marker = "token_embedding.weight"
    return Component(name, prefix, marker, text_encoders.TOKENS, ldm_places, places, text_encoders.current_names)


SD1_TEXT = _clip("cond_stage_model.transformer.")
SD2_TEXT = _open_clip("text_encoder", "cond_stage_model.model.", text_encoders.sd2_places)
SDXL_TEXT = _clip("conditioner.embedders.0.transformer.")
SDXL_TEXT_2 = _open_clip("text_encoder_2", "conditioner.embedders.1.model.", text_encoders.open_clip_places)
REFINER_TEXT = _open_clip("text_encoder_2", "conditioner.embedders.0.model.", text_encoders.open_clip_places)

FOLDER_COMPONENTS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2"})
"""Components of a folder that have a place in a checkpoint."""

IN_CHECKPOINTS = (UNET, VAE, SD1_TEXT, SD2_TEXT, SDXL_TEXT, SDXL_TEXT_2, REFINER_TEXT)


def of_folder(components: Mapping[str, Shapes]) -> Iterator[Component]:
    """Those of *components*, a folder's, that have a place in a checkpoint, and which place that is."""
    shapes = components.get("text_encoder", {})
    positions = shapes.get(text_encoders.current_names(shapes).get(text_encoders.POSITIONS, ""), ())
    sdxl = "text_encoder_2" in components or "add_embedding.linear_1.weight" in components.get("unet", {})
    found = [UNET, VAE]
    if sdxl:
        found += [SDXL_TEXT, SDXL_TEXT_2 if shapes else REFINER_TEXT]
    else:
        found.append(SD1_TEXT if positions[-1:] == (text_encoders.CLIP_L_WIDTH,) else SD2_TEXT)
    return (component for component in found if component.name in components)


_UNDER_DIFFUSERS_NAMES = (
    ("unet", "mid_block.resnets.0.norm1.weight"),
    ("unet", "down_blocks.0.resnets.0.time_emb_proj.weight"),
    ("vae", "decoder.mid_block.resnets.0.norm1.weight"),
)
"""Names that no other component, and no checkpoint, has; a text encoder's are the same in both layouts, or its place
cannot be told from them alone."""


def component_under_diffusers_names(names: Container[str]) -> str | None:
    """The component whose diffusers *names* these are, each for itself; ``None`` where they are of none."""
    return next((component for component, marker in _UNDER_DIFFUSERS_NAMES if marker in names), None)
