"""Trying an upscaler or restorer through spandrel: pictures that are drawn, made smaller, and given back by it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from modelhub.smoke import images
from modelhub.smoke.course import Course
from modelhub.smoke.loading import CannotLoad
from modelhub.smoke.spec import Component

_SMALLEST = 16
"""Pixels of the smallest picture that is given to it."""


def try_upscaler(course: Course, component: Component) -> None:
    """Tell whether spandrel loads the network of *component*'s tensors, and how well it gives drawn pictures back.

    Raises :class:`CannotLoad` for one that takes something else than grey or coloured pictures.
    """
    spec, teller, place = course.spec, course.teller, course.place
    assert component.tensors is not None
    tensors = {name: course.files.see(view) for name, view in component.tensors.items()}
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    spandrel = _spandrel()
    try:
        network = spandrel.MAIN_REGISTRY.load({name: tensor.float() for name, tensor in tensors.items()})
    except spandrel.UnsupportedModelError:
        teller.tell(upscaler={"error": "spandrel knows no network of such tensors"})
        return
    except Exception as error:  # each of its architectures finds its own words for what does not fit
        teller.tell(upscaler={"error": " ".join(str(error).split())[:300] or type(error).__name__})
        return
    told: dict[str, Any] = {
        "network": network.architecture.name,
        "purpose": network.purpose,
        "scale": network.scale,
        "channels": [network.input_channels, network.output_channels],
        "loaded": len(tensors),
        "non_finite": {"count": len(bad), "names": bad[:20]},
    }
    if bad:
        teller.tell(upscaler=told)
        return
    if not isinstance(network, spandrel.ImageModelDescriptor) or network.input_channels not in (1, 3):
        raise CannotLoad(f"there is no test yet for {told['network']} of {network.input_channels} channels")
    supported = {torch.float16: network.supports_half, torch.bfloat16: network.supports_bfloat16}
    network.to(place.device, place.dtype if supported.get(place.dtype, True) else torch.float32).eval()
    teller.stage("giving pictures back")
    small = max(_SMALLEST, spec.size // network.scale)
    found, expected, plain = [], [], []
    for picture in images.drawn(small * network.scale):
        if network.input_channels == 1:
            picture = picture.mean(axis=-1, keepdims=True)  # noqa: PLW2901
        given = _smaller(picture, network.scale)
        made = network(torch.from_numpy(given).permute(2, 0, 1)[None].to(place.device, network.dtype)).float().cpu()
        found.append(made[0].permute(1, 2, 0).numpy())
        expected.append(picture)
        plain.append(given.repeat(network.scale, axis=0).repeat(network.scale, axis=1))
    told["size"] = list(found[0].shape[:2])
    told["expected"] = [small * network.scale] * 2
    told["not_finite"] = float(np.mean([not_finite.mean() for not_finite in (~np.isfinite(each) for each in found)]))
    if not told["not_finite"] and told["size"] == told["expected"]:
        told["psnr"] = float(np.mean([images.psnr(*pair) for pair in zip(found, expected, strict=True)]))
        told["plain"] = float(np.mean([images.psnr(*pair) for pair in zip(plain, expected, strict=True)]))
        rows = zip(plain, found, expected, strict=True)
        sheet = np.concatenate([np.concatenate([_in_colour(each) for each in row], axis=1) for row in rows])
        course.keep(course.png(sheet))
        course.compare_with_reference(sheet)
    teller.tell(upscaler=told)


def _smaller(picture: images.Picture, scale: int) -> images.Picture:
    """The mean of every *scale* x *scale* pixels."""
    height, width, channels = picture.shape
    return picture.reshape(height // scale, scale, width // scale, scale, channels).mean(axis=(1, 3))


def _in_colour(picture: images.Picture) -> images.Picture:
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture


def _spandrel() -> Any:
    """spandrel, which takes single functions for an inpainter and a restorer of faces from torchvision.

    Where torchvision is not installed, or not for this torch, nothing stands in its place while spandrel is imported.
    """
    if "spandrel" in sys.modules:
        return sys.modules["spandrel"]
    try:
        importlib.import_module("torchvision.transforms.functional")
    except Exception:  # a build for another torch ends in whatever its libraries lack
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in names:
            module = sys.modules[name] = ModuleType(name)
            vars(module).update(InterpolationMode=SimpleNamespace(BILINEAR=None), rotate=None, normalize=None)
        try:
            return importlib.import_module("spandrel")
        finally:
            for name in names:
                del sys.modules[name]
    return importlib.import_module("spandrel")
