"""Which model a file is, told from names, shapes, a few bytes and metadata; nothing is loaded."""

from __future__ import annotations

from modelhub.container.base import Container
from modelhub.identify.base import Adapter, Evidence, Identity
from modelhub.identify.file import identify_state_dict
from modelhub.identify.probe import numbers

__all__ = ["Adapter", "Evidence", "Identity", "identify", "identify_state_dict", "numbers"]


def identify(container: Container) -> Identity:
    """Which model *container* is; facts that cannot be told stay ``None``. Never raises for content.

    A file is known by its tensors, a diffusers folder by its configurations and the tensors of its parts.
    """
    if container.parts or container.configs:
        from modelhub.identify.folder import identify_folder

        return identify_folder(container)
    if container.state_dict is None:
        return Identity()
    return identify_state_dict(container.state_dict, container.source.read_at if container.source else None)
