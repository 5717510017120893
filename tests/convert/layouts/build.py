"""Small models in both layouts, and views of them carried out with torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from modelhub.convert.layouts import Layout, Shapes, View, resolve
from modelhub.samples.layouts import Architecture, checkpoint
from modelhub.tensors import DType, StorageRef, TensorInfo

ARCHITECTURES: tuple[Architecture, ...] = ("sd-1", "sd-2", "sdxl", "sdxl-refiner")
Weights = dict[str, torch.Tensor]
SMALL = 0.02


def shapes_of(architecture: Architecture, **options) -> Shapes:
    return {name: shape for name, (_, shape) in checkpoint(architecture, **options).items()}


def random_weights(shapes: Shapes) -> Weights:
    """A tensor of its own random values for every shape."""
    generator = torch.Generator().manual_seed(len(shapes))
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def info(name: str, tensor: torch.Tensor) -> TensorInfo:
    storage = StorageRef(name, 0, tensor.untyped_storage().nbytes())
    return TensorInfo(name, DType.F32, tuple(tensor.shape), storage, tensor.storage_offset() * 4, tensor.stride())


def see(view: View, tensor: torch.Tensor) -> torch.Tensor:
    """What the tensor that *view* resolves to reads, by offset and strides, from the bytes of *tensor*."""
    seen = resolve(view, info(view.name, tensor))
    contiguous = torch.empty(seen.shape, device="meta").stride()
    return tensor.as_strided(seen.shape, seen.strides or contiguous, seen.offset // 4)


def carried_out(layout: Layout, sources: Mapping[str, Weights]) -> dict[str, Weights]:
    """The tensors of every component of *layout*, made of those in *sources*."""
    return {
        component: {
            name: torch.cat(pieces)
            if len(pieces := [see(v, sources[v.component][v.name]) for v in views]) > 1
            else pieces[0]
            for name, views in tensors.items()
        }
        for component, tensors in layout.components.items()
    }


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert found[name].dtype is tensor.dtype, name
        assert torch.equal(found[name], tensor), name
