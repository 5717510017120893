"""A ControlNet or T2I-Adapter beside the modules of a base, and the pictures that it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from modelhub.smoke import images
from modelhub.smoke.loading import Account, Files, Place, account_dict, load_component
from modelhub.smoke.spec import Component


@dataclass(frozen=True, slots=True)
class Steering:
    """*module* is the pipeline's *part*, *picture* what it is shown, ``(1, channels, size, size)`` from 0 to 1."""

    part: str
    module: Any
    picture: torch.Tensor
    strength: float = 1.0


class Control:
    """The ControlNet or T2I-Adapter that *component* says, loaded; ``told`` is what became of its tensors."""

    def __init__(self, component: Component, files: Files, place: Place, size: int) -> None:
        adapter = component.config["_class_name"] == "T2IAdapter"
        self._part = "adapter" if adapter else "controlnet"
        account: Account
        self._module, account = load_component(component, files, place)
        self.told = account_dict({self._part: account})
        channels = int(str(component.config["in_channels" if adapter else "conditioning_channels"]))
        edges = (torch.from_numpy(images.edges(each)) for each in images.drawn(size))
        self._pictures = [each[None, None].expand(1, channels, -1, -1) for each in edges]

    def on(self, strength: float = 1.0, *, other: bool = False) -> Steering:
        """What a sampler is given to be steered by the edges of a drawn picture, or of the *other* one."""
        return Steering(self._part, self._module, self._pictures[other], strength)
