"""The words of key layouts: a tensor's place in both layouts, and an output tensor as views of source tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from modelhub.errors import ConversionError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Names to shapes in elements: all that a layout is told by."""

CHECKPOINT = "checkpoint"
"""The component that a single-file checkpoint is."""

UNPLACED = "unplaced"
"""The component of a folder that holds what diffusers has no place for, under its name in the checkpoint."""


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor of a model and its names in both layouts, each without the prefix of its component.

    Three *diffusers* names divide the rows of the one LDM tensor among themselves, in their order. *change* says how
    the shape differs: ``conv`` is a 1x1 convolution in LDM's layout and a matrix in diffusers', ``transposed`` a
    matrix that one has the other way round. A place that is not *required* may be empty.
    """

    ldm: str
    diffusers: tuple[str, ...]
    change: Literal["none", "conv", "transposed"] = "none"
    required: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """A part of an output tensor: the source tensor *name* of *component*, looked at in another way.

    First come *rows* ``[a, b)`` of axis 0 (``None``: all), then the matrix is *transposed*, then it has *shape*
    (``None``: as it is), which differs by dimensions of size 1 only.
    """

    component: str
    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A model in another layout.

    ``components`` gives for every tensor of every component the views that follow each other along its axis 0;
    ``unused`` the source tensors without a place there, ``(component, name)``; ``missing`` the names, in the source's
    layout, of what should be there and is not; ``configs`` the JSON files of a folder by relative path (none for a
    checkpoint).
    """

    components: Mapping[str, Mapping[str, tuple[View, ...]]]
    unused: tuple[tuple[str, str], ...]
    missing: tuple[tuple[str, str], ...]
    configs: Mapping[str, Mapping[str, object]]


class Modules:
    """The tree of modules that dotted names span."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self._children: dict[str, set[str]] = {}
        for name in names:
            path = name
            while path:
                path, _, child = path.rpartition(".")
                children = self._children.setdefault(path, set())
                if child in children:
                    break
                children.add(child)

    def __contains__(self, path: str) -> bool:
        return path in self._children

    def count(self, path: str) -> int:
        """How many numbered children there are under *path*."""
        return sum(child.isascii() and child.isdecimal() for child in self._children.get(path, ()))


def both(ldm: str, diffusers: str, change: Literal["none", "conv"] = "none") -> Iterator[Place]:
    """The places of a module's weight, which may *change*, and bias."""
    yield Place(f"{ldm}.weight", (f"{diffusers}.weight",), change)
    yield Place(f"{ldm}.bias", (f"{diffusers}.bias",))


def dimension(shapes: Shapes, name: str, axis: int) -> int:
    """The size of the tensor *name* along *axis*; :class:`ConversionError` where it has none."""
    shape = shapes.get(name, ())
    if axis >= len(shape):
        raise ConversionError(f"the tensor {name!r:.100} of shape {list(shape)} has not the dimensions that it should")
    return shape[axis]


def last_of(shapes: Shapes, ending: str) -> int | None:
    """The last dimension of the first tensor whose name has that *ending*; ``None`` if there is none."""
    return next((shape[-1] for name, shape in shapes.items() if name.endswith(ending) and shape), None)
