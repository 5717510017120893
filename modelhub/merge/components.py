"""Which component of a base an adapter's module is of, by the beginning of its name."""

from __future__ import annotations

from modelhub.identify.modules import ModulePrefix

SECOND = "denoiser_2"
"""The second of two transformers, Wan 2.2's for low noise."""


def component_of(prefix: ModulePrefix | None) -> str | None:
    """The component that a name is of that begins as *prefix* does; ``None``: it does not say."""
    if prefix is None:
        return None
    return SECOND if prefix.begins == "transformer_2." else prefix.component
