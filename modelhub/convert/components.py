"""Which part of a model a tensor belongs to, by the prefix that its name has in a single file."""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.convert.base import Assembly, Draft
from modelhub.errors import ConversionError
from modelhub.tensors import Leftover

COMPONENTS = ("unet", "vae", "te", "te_2", "te_3", "ema", "controlnet")
"""What parts are called. ``te`` is the first text encoder; where one is asked for by ``te``, all of them are meant."""

_ALIASES = {"transformer": "unet", "text_encoder": "te", "text_encoder_2": "te_2", "text_encoder_3": "te_3"}

_CHECKPOINT: tuple[tuple[str, str], ...] = (
    ("model.diffusion_model.", "unet"),
    ("first_stage_model.", "vae"),
    ("cond_stage_model.transformer.", "te"),
    ("cond_stage_model.model.", "te"),
    ("conditioner.embedders.0.transformer.", "te"),
    ("conditioner.embedders.0.model.", "te"),
    ("conditioner.embedders.1.model.", "te_2"),
    ("text_encoders.clip_l.transformer.", "te"),
    ("text_encoders.clip_g.transformer.", "te_2"),
    ("text_encoders.t5xxl.transformer.", "te_3"),
)
"""Prefixes in single files (SD 1, SD 2, SDXL, SD 3) that a part's own loaders do without; the first that fits is it."""

_PREFIXES = (
    *_CHECKPOINT,
    ("model_ema.", "ema"),
    ("cond_stage_model.", "te"),
    ("control_model.", "controlnet"),
    ("lora_unet_", "unet"),
    ("lora_te_", "te"),
    ("lora_te1_", "te"),
    ("lora_te2_", "te_2"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("vae.", "vae"),
    ("text_encoder.", "te"),
    ("text_encoder_2.", "te_2"),
    ("text_encoder_3.", "te_3"),
)
"""Those, and the ones that belong to the names: of LoRAs (kohya, diffusers), ControlNets and averaged weights."""

_KINDS = {
    "vae": "vae",
    "text-encoder": "te",
    "diffusion-model": "unet",
    "controlnet": "controlnet",
}


def component_of(name: str, whole: str | None = None) -> str | None:
    """The component of the tensor *name*, *whole* where its file is one as a whole; ``None`` for what is of no part."""
    if whole is not None:
        return whole
    return next((component for prefix, component in _PREFIXES if name.startswith(prefix)), None)


def part_of_kind(kind: str | None) -> str | None:
    """The component that a file is whose identity is of *kind*, if it is one as a whole."""
    return _KINDS.get(kind or "")


def component_named(word: str) -> str | None:
    """The component that *word* stands for, by our name of it or by diffusers'."""
    component = _ALIASES.get(word, word)
    return component if component in COMPONENTS else None


def is_part(component: str | None, wanted: str) -> bool:
    """Whether *component* is *wanted*; ``te`` is every text encoder."""
    return component == wanted or (wanted == "te" and component in ("te_2", "te_3"))


def split(draft: Draft, words: tuple[str, ...], name: str, whole: str | None) -> tuple[Mapping[str, Draft], Draft]:
    """Drafts of the components *words* by component, and the draft without tensors: what was left out and said.

    Names lose the prefix that says which part of a single file they are, as loaders of parts expect it. Raises
    :class:`ConversionError` for a word that is no component and for one that the file *name* has no tensors of.
    """
    wanted: list[str] = []
    for word in words:
        component = component_named(word)
        if component is None:
            raise ConversionError(f"{word!r} is no component", hint=f"components are {', '.join(COMPONENTS)}")
        wanted.append(component)
    parts: dict[str, dict[str, Assembly]] = {}
    left: list[Leftover] = []
    for key, made in draft.tensors.items():
        component = component_of(key, whole)
        if component is not None and any(is_part(component, word) for word in wanted):
            parts.setdefault(component, {})[bare_name(key)] = made
        else:
            left.append(Leftover(key, "a tensor of no component that was asked for"))
    for word in wanted:
        if not any(is_part(component, word) for component in parts):
            found = {component for key in draft.tensors if (component := component_of(key, whole)) is not None}
            has = f"its parts are {', '.join(sorted(found))}" if found else "its tensors' names tell no parts"
            raise ConversionError(f"{name}: there is no component {word!r} in it: {has}")
    return {component: Draft(tensors) for component, tensors in parts.items()}, draft.changed({}, left=left)


def bare_name(key: str) -> str:
    """The tensor's name in a file of its component alone."""
    return next((key[len(prefix) :] for prefix, _ in _CHECKPOINT if key.startswith(prefix)), key)
