"""The parts of any model, as they are run: what it lacks comes from another one, its base."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from modelhub.container import Container, open_path
from modelhub.errors import ConversionError
from modelhub.identify import identify
from modelhub.identify.base import Identity
from modelhub.smoke.alone_parts import ALONE, alone_parts
from modelhub.smoke.flow_parts import FLOWS, flow_parts, needed_for_flow, without_t5
from modelhub.smoke.parts import Incomplete, NotTestable, Parts, require_safe
from modelhub.smoke.spec import Component
from modelhub.smoke.unet_parts import NATIVE, require_pipeline, unet_parts

DENOISERS = frozenset({"checkpoint", "diffusion-model"})
"""Kinds that generate: whole models, and UNets or transformers alone."""

MODELS = DENOISERS | ALONE.keys()
"""Kinds that are tested by themselves."""

FindBase = Callable[[str], str | None]
"""The path of the model that gives an architecture's adapters and parts what they lack, if there is one."""


def parts_of(container: Container, identity: Identity, find_base: FindBase) -> tuple[Parts, str | None]:
    """The parts of the model of one of :data:`MODELS` in *container*, and the base that gave some of them, if any.

    Raises :class:`NotTestable` for what no pipeline is run for or lacks parts, :class:`Incomplete` and
    :class:`~modelhub.errors.ConversionError`.
    """
    if identity.kind in ALONE:
        return alone_parts(container, identity.kind), None
    parts = _own_parts(container, identity)
    lost = _lost(parts, identity)
    base = find_base(identity.architecture or "") if lost else None
    if base is not None and not _is_same(base, container.name):
        parts = _completed(parts, _parts_at(base, (identity.architecture,))[0])
        lost = _lost(parts, identity)
    else:
        base = None
    if lost:
        where = f", nor has {base}, its base" if base is not None else " (--base names a model that has)"
        raise NotTestable(f"it has no {' and no '.join(lost)}{where}")
    return _as_run(parts, identity), base


def base_parts(path: str, possible: tuple[str | None, ...]) -> Parts:
    """The parts of the base at *path*, a whole model of one of the *possible* architectures.

    Raises :class:`NotTestable`.
    """
    parts, identity = _parts_at(path, possible)
    lost = _lost(parts, identity)
    if lost:
        raise NotTestable(f"{path}, its base, has no {' and no '.join(lost)}")
    return _as_run(parts, identity)


def _parts_at(path: str, possible: tuple[str | None, ...]) -> tuple[Parts, Identity]:
    with open_path(path) as container:
        identity = identify(container)
        if identity.kind != "checkpoint":
            raise NotTestable(f"{path}, its base, is no checkpoint")
        if identity.architecture not in possible:
            raise NotTestable(
                f"it is for {' or '.join(map(str, possible))}, and {path}, its base, is {identity.architecture}"
            )
        try:
            require_safe(container)
            return _own_parts(container, identity), identity
        except Incomplete as error:
            raise NotTestable(f"{path}, its base, lacks the tensor {error.names[0]!r:.150}") from error
        except (NotTestable, ConversionError) as error:
            raise NotTestable(f"{path}, its base: {str(error).removeprefix(f'{path}: ')}") from error


def _own_parts(container: Container, identity: Identity) -> Parts:
    if identity.architecture in FLOWS:
        return flow_parts(container, identity)
    if identity.architecture not in (None, *NATIVE):
        raise NotTestable(f"there is no test yet for models of {identity.architecture}")
    return unet_parts(container, identity)


def _lost(parts: Parts, identity: Identity) -> list[str]:
    """What *parts* lack that their pipeline needs, in words."""
    if identity.architecture in FLOWS:
        lost = needed_for_flow(parts, str(identity.architecture))
    else:
        lost = (name for name in require_pipeline(parts) if name not in parts.components)
    return [name.replace("unet", "UNet").replace("vae", "VAE").replace("_", " ") for name in lost]


def _as_run(parts: Parts, identity: Identity) -> Parts:
    architecture = identity.architecture
    return without_t5(parts, architecture) if architecture in FLOWS and architecture is not None else parts


def _completed(own: Parts, base: Parts) -> Parts:
    """*own* with the components of *base* that it does not have itself; the files of the base come last."""
    first = len(own.files)

    def moved(component: Component) -> Component:
        tensors = component.tensors
        if tensors is None:
            return component
        return replace(
            component, tensors={name: replace(view, file=view.file + first) for name, view in tensors.items()}
        )

    added = {name: each for name, each in base.components.items() if name not in own.components}
    return replace(
        own,
        files=(*own.files, *base.files) if added else own.files,
        components=own.components | {name: moved(each) for name, each in added.items()},  # type: ignore[operator]
        shapes=own.shapes | {name: base.shapes[name] for name in added},  # type: ignore[operator]
        t5=own.t5 or base.t5,
    )


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
