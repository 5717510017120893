"""The parts of a model, from names and shapes: what each module's configuration is, and which tensor goes where.

The configurations are our own, made from the shapes: no JSON file of a downloaded folder reaches a loader.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelhub.container import Container
from modelhub.convert.folder_files import weight_groups
from modelhub.convert.folders import component_weights
from modelhub.convert.layouts import (
    CHECKPOINT,
    UNPLACED,
    Layout,
    Shape,
    Told,
    View,
    as_it_lies,
    component_under_diffusers_names,
    to_diffusers,
    viewed_shape,
)
from modelhub.identify.base import Identity
from modelhub.samples.layouts import checkpoint
from modelhub.scan import Verdict, scan
from modelhub.smoke.spec import Component, TensorFile, TensorView
from modelhub.source import LocalSource

PIPELINES = frozenset(
    {
        "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
        "StableDiffusionXLPipeline",
    }
)
"""Pipelines that are run."""

_NATIVE = {"sd-1": 512, "sd-2": 512, "sdxl": 1024, "sdxl-refiner": 1024}
_SD2_V_SIZE = 768
"""Pixels that models were trained at (SD 2 with v-prediction: 768)."""

_VAE = "first_stage_model."
_PREDICTIONS = ("epsilon", "v_prediction")

Place = tuple[str, str]
"""A component, and a name in it, as layouts call their sources."""

Origin = tuple[int, str]
"""A file's number, and a name in it."""

_Origins = tuple[tuple[TensorFile, ...], Mapping[Place, Origin]]

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

    *shapes* are the tensors' as the modules have them, *native* the pixels that the model was made for.
    """

    pipeline: str
    files: tuple[TensorFile, ...]
    components: Mapping[str, Component]
    shapes: Shapes
    scheduler: Mapping[str, object]
    unused: tuple[str, ...]
    native: int


def parts_of(container: Container, identity: Identity) -> Parts:
    """The parts of the checkpoint, folder or VAE in *container*.

    Raises :class:`NotTestable` for what no pipeline is run for, :class:`Incomplete` and
    :class:`~modelhub.errors.ConversionError`.
    """
    if identity.kind == "checkpoint" and identity.architecture not in (None, *_NATIVE):
        raise NotTestable(f"there is no test yet for models of {identity.architecture}")
    prediction = identity.prediction_type if identity.prediction_type in _PREDICTIONS else None
    files, shapes, origins = _opened(container)
    told = Told(prediction)
    layout = to_diffusers(shapes[CHECKPOINT], told) if CHECKPOINT in shapes else as_it_lies(shapes, told)
    if layout.missing:
        raise Incomplete(tuple(name for _, name in layout.missing))
    return _parts(layout, shapes, identity.architecture, (files, origins), whole=identity.kind == "checkpoint")


def random_parts(architecture: str) -> Parts:
    """The parts of a model of *architecture* (``sd-1``, ``sd-2``, ``sdxl``) in its full size, of random weights."""
    shapes = {CHECKPOINT: random_shapes(architecture)}
    return _parts(to_diffusers(shapes[CHECKPOINT]), shapes, architecture, None)


def random_shapes(architecture: str) -> Mapping[str, Shape]:
    """Names and shapes of a checkpoint of *architecture*, as published ones have them."""
    if architecture not in _NATIVE:
        raise NotTestable(f"there is no test yet for adapters of {architecture}")
    return {name: shape for name, (_, shape) in checkpoint(architecture).items()}  # type: ignore[arg-type]


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
    groups, _ = weight_groups(container)
    plain = [each for each in groups if "." not in os.path.splitext(os.path.basename(each.path))[0]]
    files = [file for each in plain or groups for file in each.files]
    if len(files) != 1:
        raise NotTestable("its tensors lie in several files" if files else "there are no weights in it")
    return container.parts[files[0]]


def file_of(part: Container) -> TensorFile:
    """The file that *part* is, as it is now. Raises :class:`NotTestable` for what lies in no file of its own."""
    if not isinstance(part.source, LocalSource):
        raise NotTestable("it does not lie in a file of its own")
    stat = part.source.stat
    return TensorFile(stat.path, stat.size, stat.mtime_ns, stat.ino)


def _parts(
    layout: Layout, shapes: Shapes, architecture: str | None, origin: _Origins | None, *, whole: bool = True
) -> Parts:
    """*layout* as parts; no *origin*: of random weights; *whole*: a pipeline, and not a VAE alone."""
    files, origins = origin or ((), None)
    index = layout.configs["model_index.json"]
    pipeline = str(index["_class_name"]) if whole else ""
    scheduler = layout.configs["scheduler/scheduler_config.json"]
    if pipeline:
        _require_whole(pipeline, layout, scheduler)
    native = _NATIVE.get(architecture or "", 512)
    if architecture == "sd-2" and scheduler["prediction_type"] == "v_prediction":
        native = _SD2_V_SIZE
    used = {name: pieces for name, pieces in layout.components.items() if pipeline or name == "vae"}
    return Parts(
        pipeline=pipeline,
        files=files,
        components={
            name: Component(
                layout.configs[f"{name}/config.json"],
                None if origins is None else {key: _view(views, origins) for key, views in pieces.items()},
            )
            for name, pieces in used.items()
        },
        shapes={
            name: {
                key: viewed_shape(views, {view.name: shapes[view.component][view.name] for view in views})
                for key, views in pieces.items()
            }
            for name, pieces in used.items()
        },
        scheduler=scheduler,
        unused=tuple(name for component, name in layout.unused if component != UNPLACED),
        native=native,
    )


def _opened(container: Container) -> tuple[tuple[TensorFile, ...], dict[str, dict[str, Shape]], dict[Place, Origin]]:
    """The files of *container*, the shapes of its tensors by component and name, and where each of them lies."""
    shapes: dict[str, dict[str, Shape]] = {}
    origins: dict[Place, Origin] = {}
    files: list[TensorFile] = []
    for component, part, prefix in _weights(container):
        if part.state_dict is None:
            raise NotTestable("its tensors cannot be told")
        for name, tensor in part.state_dict.items():
            origins[component, prefix + name] = (len(files), name)
            shapes.setdefault(component, {})[prefix + name] = tensor.shape
        files.append(file_of(part))
    if not shapes:
        raise NotTestable("there are no weights in it")
    return tuple(files), shapes, origins


def _weights(container: Container) -> Iterator[tuple[str, Container, str]]:
    """Every file that is loaded, the component that its tensors are of, and what goes before their names."""
    if container.source is not None:
        names = frozenset(container.state_dict or ())
        component = component_under_diffusers_names(names) or CHECKPOINT
        yield component, container, _VAE if component == CHECKPOINT and "decoder.conv_in.weight" in names else ""
        return
    groups, _ = weight_groups(container)
    for component, shards in component_weights(groups, container.name).items():
        for file in shards.files:
            yield component, container.parts[file], ""


def _view(views: tuple[View, ...], origins: Mapping[Place, Origin]) -> TensorView:
    (view,) = views  # nothing is put together from several on the way to diffusers
    file, name = origins[view.component, view.name]
    return TensorView(file, name, view.rows, view.transposed, view.shape)


def _require_whole(pipeline: str, layout: Layout, scheduler: Mapping[str, object]) -> None:
    if pipeline not in PIPELINES:
        raise NotTestable(f"there is no test yet for what diffusers runs as {pipeline}")
    xl = ("text_encoder_2",) if "XL" in pipeline else ()
    encoders = xl if pipeline == "StableDiffusionXLImg2ImgPipeline" else ("text_encoder", *xl)
    needed = ("unet", "vae", *encoders)
    absent = [name for name in needed if name not in layout.components]
    if absent:
        raise NotTestable(f"it has no {' and no '.join(absent)}")
    if str(scheduler["_class_name"]).startswith("EDM"):
        raise NotTestable("there is no test yet for models of the EDM formulation")
