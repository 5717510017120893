"""The parts of models that follow a flow with a transformer: SD 3, SD 3.5 and FLUX.1, whole or their transformer alone.

The names in a single file are those that their makers and ComfyUI write; in a folder, diffusers' and transformers'.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from modelhub.container import Container
from modelhub.convert.layouts import CHECKPOINT, Shape, to_autoencoder, to_text_encoder
from modelhub.identify.base import Identity
from modelhub.merge.transformers import DIFFUSERS, authors_name, placed, tensors_of
from modelhub.smoke import flow_configs
from modelhub.smoke.parts import Incomplete, Lying, NotTestable, Opened, Parts, opened
from modelhub.smoke.spec import Component, TensorView

FLOWS: Mapping[str, str] = {"sd-3": "StableDiffusion3Pipeline", "flux": "FluxPipeline"}
"""Architectures that are run, and their pipelines."""

T5: Mapping[str, str] = {"sd-3": "text_encoder_3", "flux": "text_encoder_2"}
"""Which of the text encoders is T5."""

_COMPONENTS = frozenset({"transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"})
_ROOTS: Mapping[str, tuple[str, ...]] = {
    "transformer": ("model.diffusion_model.", "diffusion_model.", "transformer."),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("text_encoders.clip_l.transformer.",),
    "text_encoder_2": ("text_encoders.clip_g.transformer.",),
    "text_encoder_3": ("text_encoders.t5xxl.transformer.",),
}
_BESIDE = {"transformer": "transformer", "vae": "VAE", "text_encoder": "text encoder CLIP-L"}
_NEEDED: Mapping[str, Mapping[str, str]] = {
    "sd-3": {**_BESIDE, "text_encoder_2": "text encoder CLIP-G"},
    "flux": {**_BESIDE, "text_encoder_2": "text encoder T5"},
}
"""What is run, in words; of SD 3, T5 where it is there."""

_NATIVE = 1024
_GUIDANCE = {"sd-3": 7.0, "flux": 3.5}
"""diffusers' defaults; what FLUX.1 dev was distilled for, schnell not being guided at all."""

VARIANTS = frozenset({None, "dev", "schnell", "3-medium", "3.5-medium", "3.5-large"})
"""Variants that are run: those that make a picture of words alone."""

_SCALED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".absmax")
"""Ends of names that say that weights are not what they stand for before something is multiplied with them."""

_PROJECTION, _TOKENS = "text_projection.weight", "encoder.embed_tokens.weight"
_TOKENIZER, _MOST_BYTES = "tokenizer.json", 32 << 20


def flow_parts(container: Container, identity: Identity) -> Parts:
    """The parts of the checkpoint, folder or transformer in *container*, which may lack components.

    Raises :class:`NotTestable` for what no pipeline is run for, :class:`Incomplete` and
    :class:`~modelhub.errors.ConversionError`.
    """
    architecture = str(identity.architecture)
    if identity.variant not in VARIANTS:
        raise NotTestable(f"there is no test yet for {architecture} of the sort {identity.variant}")
    found = opened(container, _COMPONENTS)
    components, shapes = flow_components(found, architecture)
    used = {view.name for each in components.values() for view in (each.tensors or {}).values()}
    guided = bool(components["transformer"].config.get("guidance_embeds")) if "transformer" in components else False
    return Parts(
        pipeline=FLOWS[architecture],
        files=found.files,
        components=components,
        shapes=shapes,
        scheduler=flow_configs.scheduler(architecture, guided=guided),
        unused=tuple(name for names in found.shapes.values() for name in names if name not in used),
        native=_NATIVE,
        guidance=1.0 if architecture == "flux" and not guided else _GUIDANCE[architecture],
        t5=_tokenizer(container, T5[architecture]),
    )


def flow_components(found: Opened, architecture: str) -> tuple[dict[str, Component], dict[str, dict[str, Shape]]]:
    """The components that are in *found*, and their shapes, by their names in a folder.

    Raises :class:`NotTestable`, :class:`Incomplete` and :class:`~modelhub.errors.ConversionError`.
    """
    names = [name for shapes in found.shapes.values() for name in shapes]
    scaled = next((name for name in names if name.endswith(_SCALED)), None)
    if scaled is not None:
        raise NotTestable(f"there is no test yet for weights that are scaled: {scaled!r:.100}")
    lying = {name: found.below(name, "") for name in found.shapes if name != CHECKPOINT}
    if CHECKPOINT in found.shapes:
        lying = {
            component: found.below(CHECKPOINT, root)
            for component, roots in _ROOTS.items()
            for root in roots
            if any(name.startswith(root) for name in names)
        } or {"transformer": found.below(CHECKPOINT, "")}
        if architecture == "flux" and "text_encoder_3" in lying:
            lying["text_encoder_2"] = lying.pop("text_encoder_3")
    arranged = {name: _arranged(name, each, architecture) for name, each in lying.items()}
    return (
        {name: component for name, (component, _) in arranged.items()},
        {name: shapes for name, (_, shapes) in arranged.items()},
    )


def without_t5(parts: Parts, architecture: str) -> Parts:
    """*parts* as they are run: without T5, which SD 3 does without, where it or its tokenizer is not there."""
    encoder = T5[architecture]
    if architecture == "flux" or (encoder in parts.components and parts.t5 is not None):
        return parts
    lost = "its tokenizer is not there" if encoder in parts.components else "it is not there"
    return replace(
        parts,
        components={name: each for name, each in parts.components.items() if name != encoder},
        shapes={name: each for name, each in parts.shapes.items() if name != encoder},
        t5=None,
        left_out=f"without T5: {lost}",
    )


def needed_for_flow(parts: Parts, architecture: str) -> Iterator[str]:
    """What the pipeline needs and *parts* do not have, in words."""
    yield from (words for name, words in _NEEDED[architecture].items() if name not in parts.components)
    if architecture == "flux" and parts.t5 is None:
        yield "tokenizer of T5"


def _arranged(name: str, lying: Lying, architecture: str) -> tuple[Component, dict[str, Shape]]:
    if name == "transformer":
        return _transformer(lying, architecture)
    if name == "vae":
        component, shapes = lying.arranged(to_autoencoder(lying.shapes))
        return Component({**component.config, **flow_configs.LATENTS[architecture]}, component.tensors), shapes
    if name == T5[architecture]:
        return _t5(lying)
    projected = architecture == "sd-3"
    known = {key: shape for key, shape in lying.shapes.items() if projected or key != _PROJECTION}
    component, shapes = lying.arranged(to_text_encoder(known))
    if projected and _PROJECTION not in shapes:
        raise Incomplete((lying.prefix + _PROJECTION,))
    return component, shapes


def _transformer(lying: Lying, architecture: str) -> tuple[Component, dict[str, Shape]]:
    """The transformer under diffusers' names."""
    views = dict(_views(lying))
    shapes = {name: _seen(view, lying.shapes[inner]) for name, (inner, view) in views.items()}
    try:
        config = flow_configs.sd3(shapes) if architecture == "sd-3" else flow_configs.flux(shapes)
    except Incomplete as error:
        raise Incomplete(tuple(lying.prefix + _in_file(name, lying) for name in error.names)) from error
    return Component(config, {name: view for name, (_, view) in views.items()}), shapes


def _in_file(name: str, lying: Lying) -> str:
    """What the tensor that diffusers calls *name* is called in the file, which lacks it."""
    if not _is_native(lying):
        return name
    module, _, ending = name.rpartition(".")
    return f"{authors_name(module, lying.shapes)}.{ending}"


def _is_native(lying: Lying) -> bool:
    return any(name.startswith(("double_blocks.", "joint_blocks.")) for name in lying.shapes)


def _views(lying: Lying) -> Iterator[tuple[str, tuple[str, TensorView]]]:
    """diffusers' names; each tensor's name without prefix, and how it is looked at."""
    if not _is_native(lying):
        yield from ((name, (name, TensorView(*origin))) for name, origin in lying.origins.items())
        return
    if "pos_embed" in lying.shapes:
        yield "pos_embed.pos_embed", ("pos_embed", TensorView(*lying.origins["pos_embed"]))
    for layer in placed(lying.shapes):
        if layer.layout != DIFFUSERS:
            continue
        first = layer.rows[0]
        for name, kind in tensors_of(first.stem, lying.shapes):
            shape = lying.shapes[name]
            swapped = len(layer.rows) > 1
            rows = None if swapped or shape[:1] == (first.end - first.first,) else (first.first, first.end)
            yield f"{layer.name}.{kind}", (name, TensorView(*lying.origins[name], rows, swapped=swapped))


def _seen(view: TensorView, shape: Shape) -> Shape:
    return shape if view.rows is None else (view.rows[1] - view.rows[0], *shape[1:])


def _t5(lying: Lying) -> tuple[Component, dict[str, Shape]]:
    """T5's encoder, which knows its words by two names."""
    words = "shared.weight" if "shared.weight" in lying.shapes else _TOKENS
    if words not in lying.shapes:
        raise Incomplete((f"{lying.prefix}shared.weight",))
    inner = {name: name for name in lying.shapes} | {"shared.weight": words}
    inner.setdefault(_TOKENS, words)
    shapes = {name: lying.shapes[theirs] for name, theirs in inner.items()}
    try:
        config = flow_configs.t5(shapes)
    except Incomplete as error:
        raise Incomplete(tuple(lying.prefix + name for name in error.names)) from error
    return Component(config, {name: TensorView(*lying.origins[theirs]) for name, theirs in inner.items()}), shapes


def _tokenizer(container: Container, encoder: str) -> str | None:
    """The file of T5's tokenizer in the folder *container*, beside the *encoder*."""
    if container.source is not None or container.kind == "model-folder":
        return None
    path = os.path.join(container.name, encoder.replace("text_encoder", "tokenizer"), _TOKENIZER)
    fits = os.path.isfile(path) and os.path.getsize(path) <= _MOST_BYTES
    return os.path.abspath(path) if fits else None
