"""A component that lies alone, or below a name of its own, under the names of either layout: an autoencoder, a CLIP
text encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from modelhub.convert.layouts import module_configs, text_encoders, vae
from modelhub.convert.layouts.base import CHECKPOINT, Layout, Place, Shapes, View
from modelhub.convert.layouts.plan import divided, viewed_shape
from modelhub.errors import ConversionError

_UNQUANTISED = 16
"""Latent channels of the autoencoders without the two 1x1 convolutions: SD 3's and FLUX.1's, which have the same names
and shapes (Stability-AI/sd3.5 ``sd3_impls.py``, black-forest-labs/flux ``autoencoder.py``)."""


def to_autoencoder(shapes: Shapes) -> Layout:
    """The component ``vae`` under diffusers' names, of an autoencoder with names and *shapes* of either layout.

    Its configuration does not say how latents are scaled, which no name tells. Raises :class:`ConversionError` for
    what is none.
    """
    current = vae.current_names(shapes)
    inner = {name: shapes[theirs] for name, theirs in current.items()}
    first = inner.get("decoder.conv_in.weight", ())
    if len(first) != 4:
        raise ConversionError("there is no autoencoder in it")
    ldm = "decoder.mid.block_1.norm1.weight" in inner
    if not ldm and "decoder.mid_block.resnets.0.norm1.weight" not in inner:
        raise ConversionError("there is no autoencoder of Stable Diffusion or FLUX in it")
    quantised = first[1] != _UNQUANTISED or "quant_conv.weight" in inner
    places = (
        place
        for place in (vae.ldm_places(inner) if ldm else _own(vae.diffusers_places(inner)))
        if quantised or not place.ldm.startswith(("quant_conv.", "post_quant_conv."))
    )

    def config(placed: Shapes) -> Mapping[str, object]:
        made = dict(module_configs.vae(placed, 128, xl=not quantised))
        if not quantised:
            made |= {"use_quant_conv": False, "use_post_quant_conv": False}
        return made

    return _arranged("vae", inner, current, places, config)


def to_text_encoder(shapes: Shapes) -> Layout:
    """The component ``text_encoder`` under transformers' names, of a CLIP text encoder with names and *shapes* of
    transformers or of OpenCLIP.

    Raises :class:`ConversionError` for what is none.
    """
    current = text_encoders.current_names(shapes)
    inner = {name: shapes[theirs] for name, theirs in current.items()}
    if text_encoders.TOKENS in inner:
        places = text_encoders.clip_places(inner)
    elif "token_embedding.weight" in inner and "positional_embedding" in inner:
        places = text_encoders.open_clip_places(inner)
    else:
        raise ConversionError("there is no text encoder of CLIP in it")
    return _arranged("text_encoder", inner, current, _with_projection(places), module_configs.text_encoder)


def _with_projection(places: Iterator[Place]) -> Iterator[Place]:
    known = set()
    for place in places:
        known.add(place.diffusers[0])
        yield place
    if text_encoders.PROJECTION not in known:
        yield Place(text_encoders.PROJECTION, (text_encoders.PROJECTION,), required=False)


def _own(places: Iterator[Place]) -> Iterator[Place]:
    """The places of a file that has diffusers' names already."""
    return (Place(name, (name,), required=place.required) for place in places for name in place.diffusers)


def _arranged(
    component: str,
    inner: Shapes,
    current: Mapping[str, str],
    places: Iterator[Place],
    config: Callable[[Shapes], Mapping[str, object]],
) -> Layout:
    pieces: dict[str, tuple[View, ...]] = {}
    used: set[str] = set()
    missing: list[tuple[str, str]] = []
    for place in places:
        if place.ldm in inner:
            pieces.update(divided(place, current[place.ldm], inner[place.ldm]))
            used.add(current[place.ldm])
        elif place.required:
            missing.append((CHECKPOINT, place.ldm))
    unused = tuple((CHECKPOINT, name) for name in current.values() if name not in used)
    made: Mapping[str, object] = {}
    if not missing:
        shapes = {theirs: inner[name] for name, theirs in current.items()}
        made = config({name: viewed_shape(views, shapes) for name, views in pieces.items()})
    return Layout({component: pieces}, unused, tuple(missing), {f"{component}/config.json": made})
