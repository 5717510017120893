"""A model in the other layout, tensor by tensor; pure, told by names and shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from modelhub.convert.layouts.base import CHECKPOINT, UNPLACED, Layout, Place, Shape, Shapes, View
from modelhub.convert.layouts.components import IN_CHECKPOINTS, Component, of_folder
from modelhub.convert.layouts.configs import Told, folder_configs
from modelhub.errors import ConversionError

Pieces = dict[str, tuple[View, ...]]


def to_diffusers(shapes: Shapes, told: Told | None = None) -> Layout:
    """The components of a diffusers folder that the checkpoint with names and *shapes* becomes, and its JSON files.

    A component is there if the checkpoint has it. *told* is what names and shapes do not say.

    Raises :class:`ConversionError` where there is nothing with a place in a folder, where two tensors claim one, or
    where the model is none that diffusers has a pipeline for.
    """
    components, used, missing = _placed(shapes)
    if not components:
        raise ConversionError(
            "there is no UNet, VAE or text encoder of Stable Diffusion under the names of a checkpoint"
        )
    unused = tuple((CHECKPOINT, name) for name in shapes if name not in used)
    placed = {
        name: {key: viewed_shape(views, shapes) for key, views in pieces.items()} for name, pieces in components.items()
    }
    configs = folder_configs(placed, shapes, told or Told()) if not missing else {}
    return Layout(components, unused, tuple(missing), configs)


def diffusers_views(shapes: Shapes) -> Mapping[str, Mapping[str, tuple[View, ...]]]:
    """For each component that a checkpoint with names and *shapes* has, diffusers' names as views of its tensors.

    These are the components of :func:`to_diffusers`, of whatever the checkpoint has, be it incomplete or a model
    that no pipeline is for. Raises :class:`ConversionError` where two tensors claim one component.
    """
    return _placed(shapes)[0]


def _placed(shapes: Shapes) -> tuple[dict[str, Pieces], set[str], list[tuple[str, str]]]:
    """The components of a folder as views of a checkpoint's tensors, the tensors used, and what is missing."""
    components: dict[str, Pieces] = {}
    used: set[str] = set()
    missing: list[tuple[str, str]] = []
    for component in IN_CHECKPOINTS:
        prefix = component.prefix
        below = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        actual, inner = _current(component, below)
        if component.in_checkpoint not in inner:
            continue
        if component.name in components:
            raise ConversionError(f"there are two components that diffusers calls {component.name}")
        pieces = components[component.name] = {}
        for place in component.ldm_places(inner):
            if place.ldm in inner:
                source = prefix + actual[place.ldm]
                pieces.update(divided(place, source, inner[place.ldm]))
                used.add(source)
            elif place.required:
                missing.append((CHECKPOINT, prefix + place.ldm))
    return components, used, missing


def to_ldm(components: Mapping[str, Shapes]) -> Layout:
    """The checkpoint that the *components* of a diffusers folder become: the one component :data:`CHECKPOINT`.

    What is in the component :data:`UNPLACED` comes back under its name.

    Raises :class:`ConversionError` where there is nothing with a place in a checkpoint, or where what one tensor is
    to be made of does not fit together.
    """
    pieces: Pieces = {}
    used: set[tuple[str, str]] = set()
    missing: list[tuple[str, str]] = []
    found = False
    for component in of_folder(components):
        actual, inner = _current(component, components[component.name])
        if component.in_folder not in inner:
            continue
        found = True
        for place in component.diffusers_places(inner):
            sources = [(component.name, actual.get(name, name)) for name in place.diffusers]
            lost = [source for source, name in zip(sources, place.diffusers, strict=True) if name not in inner]
            if not lost:
                pieces[component.prefix + place.ldm] = _joined(place, sources, [inner[n] for n in place.diffusers])
                used.update(sources)
            elif place.required:
                missing += lost
    if not found:
        raise ConversionError("there is no UNet, VAE or text encoder of Stable Diffusion in the folder")
    for name in components.get(UNPLACED, ()):
        if name not in pieces:
            pieces[name] = (View(UNPLACED, name),)
            used.add((UNPLACED, name))
    unused = tuple((each, name) for each, names in components.items() for name in names if (each, name) not in used)
    return Layout({CHECKPOINT: pieces}, unused, tuple(missing), {})


def as_it_lies(components: Mapping[str, Shapes], told: Told | None = None) -> Layout:
    """The *components* of a diffusers folder under the names that diffusers has today, and its JSON files, made anew
    from their shapes.

    ``unused`` and ``missing`` are as the way to a checkpoint finds them. Raises what :func:`to_ldm` and
    :func:`to_diffusers` raise.
    """
    ldm = to_ldm(components)
    if ldm.missing:
        return Layout({}, ldm.unused, ldm.missing, {})
    single = {
        name: viewed_shape(views, {view.name: components[view.component][view.name] for view in views})
        for name, views in ldm.components[CHECKPOINT].items()
    }
    made = to_diffusers(single, told)
    pieces: dict[str, Pieces] = {}
    for component in of_folder(components):
        actual, _ = _current(component, components[component.name])
        pieces[component.name] = {
            name: (View(component.name, theirs),)
            for name, theirs in actual.items()
            if name in made.components[component.name]
        }
    return Layout(pieces, ldm.unused, (), made.configs)


def viewed_shape(views: tuple[View, ...], shapes: Shapes) -> Shape:
    """The shape of what *views* of tensors with *shapes* make up."""
    first, *others = (_one_shape(view, shapes[view.name]) for view in views)
    return (first[0] + sum(shape[0] for shape in others), *first[1:]) if others else first


def _one_shape(view: View, shape: Shape) -> Shape:
    if view.rows is not None:
        shape = (view.rows[1] - view.rows[0], *shape[1:])
    if view.transposed:
        shape = shape[::-1]
    return shape if view.shape is None else view.shape


def _current(component: Component, shapes: Shapes) -> tuple[Mapping[str, str], Shapes]:
    """The names of today to the names in the file, and to the shapes."""
    actual = component.current(shapes)
    return actual, {name: shapes[theirs] for name, theirs in actual.items()}


def divided(place: Place, source: str, shape: Shape) -> Iterator[tuple[str, tuple[View, ...]]]:
    """The diffusers tensors at *place*, made of the checkpoint's *source*."""
    parts = len(place.diffusers)
    if parts > 1:
        if not shape or shape[0] % parts:
            raise ConversionError(f"the rows of {source!r:.100}, {list(shape)}, cannot be divided among {parts}")
        rows = shape[0] // parts
        for i, name in enumerate(place.diffusers):
            yield name, (View(CHECKPOINT, source, rows=(i * rows, (i + 1) * rows)),)
        return
    view = View(CHECKPOINT, source)
    if place.change == "conv" and len(shape) > 2 and math.prod(shape[2:]) == 1:
        view = View(CHECKPOINT, source, shape=shape[:2])
    elif place.change == "transposed":
        view = View(CHECKPOINT, source, transposed=True)
    yield place.diffusers[0], (view,)


def _joined(place: Place, sources: list[tuple[str, str]], shapes: list[Shape]) -> tuple[View, ...]:
    """The checkpoint's tensor at *place*, made of the folder's *sources*."""
    if len(sources) > 1:
        if len({shape[1:] for shape in shapes}) > 1 or not all(shapes):
            names = ", ".join(name for _, name in sources)
            raise ConversionError(f"the shapes of {names:.300} do not fit together")
        return tuple(View(component, name) for component, name in sources)
    ((component, name),), (shape,) = sources, shapes
    if place.change == "conv" and len(shape) == 2:
        return (View(component, name, shape=(*shape, 1, 1)),)
    return (View(component, name, transposed=place.change == "transposed"),)
