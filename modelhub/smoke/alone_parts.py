"""The parts of a component that is tested alone: an autoencoder, or a text encoder of CLIP."""

from __future__ import annotations

from collections.abc import Callable

from modelhub.container import Container
from modelhub.convert.layouts import CHECKPOINT, Layout, Shapes, to_autoencoder, to_text_encoder
from modelhub.smoke.parts import Parts, opened

ALONE: dict[str, tuple[Callable[[Shapes], Layout], tuple[str, ...]]] = {
    "vae": (to_autoencoder, ("first_stage_model.", "vae.")),
    "text-encoder": (
        to_text_encoder,
        (
            "cond_stage_model.transformer.",
            "cond_stage_model.model.",
            "conditioner.embedders.0.transformer.",
            "conditioner.embedders.0.model.",
            "conditioner.embedders.1.model.",
            "text_encoders.clip_l.transformer.",
            "text_encoders.clip_g.transformer.",
        ),
    ),
}
"""Kinds of components that are tested alone: how they are arranged, and what may stand before their names."""

_SIZE = 512


def alone_parts(container: Container, kind: str) -> Parts:
    """The one part of the *kind* in *container*, a file or the folder of one model.

    Raises :class:`~modelhub.smoke.parts.NotTestable`, :class:`~modelhub.smoke.parts.Incomplete` and
    :class:`~modelhub.errors.ConversionError`.
    """
    arrange, prefixes = ALONE[kind]
    found = opened(container, frozenset())
    names = found.shapes[CHECKPOINT]
    prefix = next((each for each in prefixes if any(name.startswith(each) for name in names)), "")
    lying = found.below(CHECKPOINT, prefix)
    layout = arrange(lying.shapes)
    (name,) = layout.components
    component, shapes = lying.arranged(layout)
    return Parts(
        pipeline="",
        files=found.files,
        components={name: component},
        shapes={name: shapes},
        scheduler={},
        unused=tuple(sorted(set(names) - lying.used(component))),
        native=_SIZE,
    )
