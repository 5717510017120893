"""The words of a model's parts, and its files as they are opened: what lies where, told without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from modelhub.container import Container
from modelhub.convert.folder_files import Shards, weight_groups
from modelhub.convert.folders import component_weights
from modelhub.convert.layouts import CHECKPOINT, Layout, Shape, View, viewed_shape
from modelhub.scan import Verdict, scan
from modelhub.smoke.spec import Component, TensorFile, TensorView
from modelhub.source import LocalSource

Place = tuple[str, str]
"""A component, and a name in it, as layouts call their sources."""

Origin = tuple[int, str]
"""A file's number, and a name in it."""

Shapes = Mapping[str, Mapping[str, Shape]]
"""Shapes by component and diffusers' name."""


class NotTestable(Exception):
    """Why a model cannot be tested, in words."""


class Incomplete(Exception):
    """A model lacks the tensors of these *names*."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.names = names


@dataclass(frozen=True, slots=True)
class Parts:
    """A model's parts; the fields are those of :class:`~modelhub.smoke.spec.SmokeSpec`.

    *shapes* are the tensors' as the modules have them, *native* the pixels and *guidance* the scale that the model was
    made for; *t5* is the file of T5's tokenizer, *left_out* what of the model is not run, and why.
    """

    pipeline: str
    files: tuple[TensorFile, ...]
    components: Mapping[str, Component]
    shapes: Shapes
    scheduler: Mapping[str, object]
    unused: tuple[str, ...]
    native: int
    guidance: float = 7.0
    t5: str | None = None
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The *files* of a model, and by component the *shapes* of its tensors; *origins* is where each of them lies.

    What lies in one file, or is one model in shards, is the component :data:`~modelhub.convert.layouts.CHECKPOINT`.
    """

    files: tuple[TensorFile, ...]
    shapes: Mapping[str, Mapping[str, Shape]]
    origins: Mapping[Place, Origin]

    def below(self, component: str, prefix: str) -> Lying:
        """What of *component* has names with *prefix*, without it."""
        names = [name for name in self.shapes.get(component, ()) if name.startswith(prefix)]
        inner = {name.removeprefix(prefix): name for name in names}
        return Lying(
            prefix,
            {name: self.shapes[component][full] for name, full in inner.items()},
            {name: self.origins[component, full] for name, full in inner.items()},
        )


@dataclass(frozen=True, slots=True)
class Lying:
    """The tensors of one component: their *shapes* and *origins* by name without the *prefix* that they have in their
    file."""

    prefix: str
    shapes: Mapping[str, Shape]
    origins: Mapping[str, Origin]

    def arranged(self, layout: Layout) -> tuple[Component, dict[str, Shape]]:
        """The one component of *layout*, which was made of these, and its shapes. Raises :class:`Incomplete`."""
        if layout.missing:
            raise Incomplete(tuple(self.prefix + name for _, name in layout.missing))
        ((name, pieces),) = layout.components.items()
        return Component(
            layout.configs[f"{name}/config.json"],
            {key: seen(view, self.origins[view.name]) for key, (view,) in pieces.items()},
        ), {key: viewed_shape(views, self.shapes) for key, views in pieces.items()}

    @staticmethod
    def used(component: Component) -> set[str]:
        """The names in their files of the tensors that *component* is made of."""
        return {view.name for view in (component.tensors or {}).values()}


def require_safe(container: Container) -> None:
    """Raise :class:`NotTestable` unless *container* is safetensors whose scan says ``safe``."""
    report = scan(container)
    if any(part.kind != "safetensors" for _, part in container.files()):
        if report.verdict >= Verdict.SUSPICIOUS:
            raise NotTestable(f"it is {report.verdict.label}, and not loaded")
        raise NotTestable("only safetensors are loaded: convert it first (modelhub convert)")
    if report.verdict is not Verdict.SAFE:
        worst = max(report.findings, key=lambda finding: finding.severity, default=None)
        skipped = report.coverage.skipped[0].reason if report.coverage.skipped else "it was not understood"
        raise NotTestable(f"its scan says {report.verdict.label}: {worst.message if worst is not None else skipped}")


def only_file(container: Container) -> Container:
    """The one file of weights in *container*, a file or the folder of one model; of variants, the one of none.

    Raises :class:`NotTestable` where there are several, or none.
    """
    if container.source is not None:
        return container
    files = _plain(weight_groups(container)[0]).files
    if len(files) != 1:
        raise NotTestable("its tensors lie in several files")
    return container.parts[files[0]]


def file_of(part: Container) -> TensorFile:
    """The file that *part* is, as it is now. Raises :class:`NotTestable` for what lies in no file of its own."""
    if not isinstance(part.source, LocalSource):
        raise NotTestable("it does not lie in a file of its own")
    stat = part.source.stat
    return TensorFile(stat.path, stat.size, stat.mtime_ns, stat.ino)


def opened(container: Container, components: Set[str]) -> Opened:
    """The files of *container*; of a pipeline's folder, those of its *components*.

    Raises :class:`NotTestable` where there are no tensors, or they cannot be told.
    """
    shapes: dict[str, dict[str, Shape]] = {}
    origins: dict[Place, Origin] = {}
    files: list[TensorFile] = []
    for component, part in _weights(container, components):
        if part.state_dict is None:
            raise NotTestable("its tensors cannot be told")
        for name, tensor in part.state_dict.items():
            origins[component, name] = (len(files), name)
            shapes.setdefault(component, {})[name] = tensor.shape
        files.append(file_of(part))
    if not shapes:
        raise NotTestable("there are no weights in it")
    return Opened(tuple(files), shapes, origins)


def _weights(container: Container, components: Set[str]) -> Iterator[tuple[str, Container]]:
    """Every file that is loaded, and the component that its tensors are of."""
    if container.source is not None:
        yield CHECKPOINT, container
        return
    groups, _ = weight_groups(container)
    chosen = {CHECKPOINT: _plain(groups)} if container.kind == "model-folder" else None
    for component, shards in (chosen or component_weights(groups, container.name, components)).items():
        for file in shards.files:
            yield component, container.parts[file]


def _plain(groups: tuple[Shards, ...]) -> Shards:
    """The one of *groups* that a model is loaded from: that of no variant, if there is one."""
    plain = [each for each in groups if "." not in os.path.splitext(os.path.basename(each.path))[0]]
    found = plain or groups
    if len(found) != 1:
        raise NotTestable("its tensors lie in several files" if found else "there are no weights in it")
    return found[0]


def seen(view: View, origin: Origin) -> TensorView:
    """*view* of the tensor that lies at *origin*."""
    return TensorView(*origin, view.rows, view.transposed, view.shape)
