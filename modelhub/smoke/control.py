"""What a ControlNet or a T2I-Adapter is made of and whether it fits its base, told without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modelhub.container import Container
from modelhub.convert.layouts import Layout, Shape, Shapes, to_controlnet, to_t2i_adapter
from modelhub.identify.base import Identity
from modelhub.smoke.parts import Incomplete, NotTestable, Parts
from modelhub.smoke.spec import AdapterSpec, Component, TensorView

CONTROLS = frozenset({"controlnet", "t2i-adapter"})
"""Kinds that steer a base by a picture."""

_ARRANGED: dict[str, Callable[[Shapes], Layout]] = {"controlnet": to_controlnet, "t2i-adapter": to_t2i_adapter}
_STEERED = frozenset({"StableDiffusionPipeline", "StableDiffusionXLPipeline"})
"""Pipelines of bases that diffusers can steer, and that start from nothing but a prompt."""


def control_of(container: Container, identity: Identity, base: Parts) -> AdapterSpec:
    """The ControlNet or T2I-Adapter in *container*; its one file comes after those of *base*.

    Raises :class:`NotTestable` for one that diffusers does not run or that is for another UNet, :class:`Incomplete` and
    :class:`~modelhub.errors.ConversionError`.
    """
    state_dict = container.state_dict
    if state_dict is None:
        raise NotTestable("its tensors cannot be told")
    if identity.variant not in (None, "light"):
        raise NotTestable(f"there is no test yet for a {identity.kind} of the sort {identity.variant}")
    if base.pipeline not in _STEERED:
        raise NotTestable(f"its base is run as {base.pipeline}, which nothing steers")
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    layout = _ARRANGED[str(identity.kind)](shapes)
    if layout.missing:
        raise Incomplete(tuple(name for _, name in layout.missing))
    ((component, pieces),) = layout.components.items()
    names = {key: view.name for key, (view,) in pieces.items()}
    own = {key: shapes[name] for key, name in names.items()}
    skips, levels = _widths(base.shapes["unet"])
    if component == "controlnet":
        expected, found = skips, tuple(_numbered(own, "controlnet_down_blocks.{}.weight"))
    else:
        expected, found = levels, tuple(layout.configs[f"{component}/config.json"]["channels"])  # type: ignore[arg-type]
        expected = expected[: len(found)]
    if expected != found:
        raise NotTestable(f"it is for a UNet of the widths {_told(found)}, and that of its base has {_told(expected)}")
    file = len(base.files)
    return AdapterSpec(
        control=Component(
            layout.configs[f"{component}/config.json"], {key: TensorView(file, name) for key, name in names.items()}
        ),
        unmatched=tuple((name, "it has no place for it") for _, name in layout.unused),
    )


def _widths(unet: dict[str, Shape] | Shapes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels of everything that *unet* keeps on its way down, and of its levels."""
    skips, levels = [unet["conv_in.weight"][0]], []
    level = 0
    while f"down_blocks.{level}.resnets.0.conv2.weight" in unet:
        widths = list(_numbered(unet, f"down_blocks.{level}.resnets.{{}}.conv2.weight"))
        levels.append(widths[-1])
        skips += widths
        if f"down_blocks.{level}.downsamplers.0.conv.weight" in unet:
            skips.append(widths[-1])
        level += 1
    return tuple(skips), (*levels, levels[-1])


def _numbered(shapes: Shapes, name: str) -> Iterator[int]:
    """The first dimension of the tensors whose *name* has the numbers from 0 on, as far as they have one."""
    number = 0
    while shape := shapes.get(name.format(number)):
        yield shape[0]
        number += 1


def _told(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths[:20]))
