"""What a model's test is to load, from names, shapes and the scan's verdict; or why it cannot be tested.

The configurations of the modules are our own, made from the shapes: no JSON file of a downloaded folder reaches a
loader. Only safetensors whose scan says ``safe`` are let through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelhub.container import Container, open_path
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
)
from modelhub.errors import ConversionError, MissingExtra
from modelhub.identify import identify
from modelhub.identify.base import Identity
from modelhub.scan import Verdict, scan
from modelhub.smoke.spec import PROMPTS, Check, Component, Settings, SmokeResult, SmokeSpec, TensorFile, TensorView
from modelhub.source import LocalSource

PIPELINES = frozenset({"StableDiffusionPipeline", "StableDiffusionXLPipeline"})
"""Pipelines that are run: text to image."""

_NATIVE = {"sd-1": 512, "sd-2": 512, "sdxl": 1024}
_SD2_V_SIZE = 768
"""Pixels that models were trained at (SD 2 with v-prediction: 768)."""

_STEPS = {"quick": 4, "standard": 20}
_QUICK_SIZE = 256
_VAE = "first_stage_model."
_PREDICTIONS = ("epsilon", "v_prediction")

Place = tuple[str, str]
"""A component, and a name in it, as layouts call their sources."""

Origin = tuple[int, str]
"""A file's number, and a name in it."""


class _NotTestable(Exception):
    """Why a model cannot be tested, in words."""


def prepare(path: str, settings: Settings) -> SmokeSpec | SmokeResult:
    """The test of the model at *path*, or the result of one that cannot take place or has failed already.

    Raises :class:`~modelhub.errors.SourceError` when it cannot be had, :class:`~modelhub.errors.MissingExtra` without
    the libraries that run it.
    """
    _require_libraries()
    with open_path(path) as container:
        identity = identify(container)
        try:
            _require_safe(container)
            return _prepared(container, identity, settings)
        except (_NotTestable, ConversionError) as error:
            reason = str(error).removeprefix(f"{path}: ")
        return SmokeResult(path, "not testable", reason, identity.kind, identity.architecture)


def _require_libraries() -> None:
    from importlib.util import find_spec

    for name in ("torch", "diffusers", "transformers"):
        if find_spec(name) is None:
            raise MissingExtra(name, "smoke")


def _require_safe(container: Container) -> None:
    report = scan(container)
    if any(part.kind != "safetensors" for _, part in container.files()):
        if report.verdict >= Verdict.SUSPICIOUS:
            raise _NotTestable(f"it is {report.verdict.label}, and not loaded")
        raise _NotTestable("only safetensors are loaded: convert it first (modelhub convert)")
    if report.verdict is not Verdict.SAFE:
        worst = max(report.findings, key=lambda finding: finding.severity, default=None)
        skipped = report.coverage.skipped[0].reason if report.coverage.skipped else "it was not understood"
        raise _NotTestable(f"its scan says {report.verdict.label}: {worst.message if worst is not None else skipped}")


def _prepared(container: Container, identity: Identity, settings: Settings) -> SmokeSpec | SmokeResult:
    if identity.kind not in ("checkpoint", "vae"):
        raise _NotTestable(f"there is no test yet for {identity.kind or 'what was not recognised'}")
    prediction = identity.prediction_type if identity.prediction_type in _PREDICTIONS else None
    files, layout, origins = _laid_out(container, Told(prediction))
    if layout.missing:
        return _incomplete(container.name, identity, layout)
    index = layout.configs["model_index.json"]
    pipeline = str(index["_class_name"]) if identity.kind == "checkpoint" else ""
    if pipeline:
        _require_whole(pipeline, layout, index)
    scheduler = layout.configs["scheduler/scheduler_config.json"]
    if pipeline and str(scheduler["_class_name"]).startswith("EDM"):
        raise _NotTestable("there is no test yet for models of the EDM formulation")
    quick = settings.preset == "quick"
    native = _NATIVE.get(identity.architecture or "", 512)
    if identity.architecture == "sd-2" and scheduler["prediction_type"] == "v_prediction":
        native = _SD2_V_SIZE
    return SmokeSpec(
        path=container.name,
        kind=identity.kind,
        architecture=identity.architecture,
        pipeline=pipeline,
        files=files,
        components={
            name: Component(
                layout.configs[f"{name}/config.json"],
                {key: _view(views, origins) for key, views in pieces.items()},
            )
            for name, pieces in layout.components.items()
            if pipeline or name == "vae"
        },
        scheduler=scheduler,
        unused=tuple(name for component, name in layout.unused if component != UNPLACED),
        steps=settings.steps or _STEPS[settings.preset],
        size=settings.size or (_QUICK_SIZE if quick else native),
        seed=settings.seed,
        guidance=settings.guidance,
        prompts=PROMPTS,
        device=settings.device,
        dtype=settings.dtype,
        tokenizer=settings.tokenizer,
    )


def _laid_out(container: Container, told: Told) -> tuple[tuple[TensorFile, ...], Layout, Mapping[Place, Origin]]:
    """The files of *container*, its tensors under diffusers' names, and where the layout's sources lie."""
    shapes: dict[str, dict[str, Shape]] = {}
    origins: dict[Place, Origin] = {}
    files: list[TensorFile] = []
    for component, part, prefix in _parts(container):
        if part.state_dict is None:
            raise _NotTestable("its tensors cannot be told")
        for name, tensor in part.state_dict.items():
            origins[component, prefix + name] = (len(files), name)
            shapes.setdefault(component, {})[prefix + name] = tensor.shape
        files.append(_file(part))
    if not shapes:
        raise _NotTestable("there are no weights in it")
    layout = to_diffusers(shapes[CHECKPOINT], told) if CHECKPOINT in shapes else as_it_lies(shapes, told)
    return tuple(files), layout, origins


def _parts(container: Container) -> Iterator[tuple[str, Container, str]]:
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


def _file(part: Container) -> TensorFile:
    if not isinstance(part.source, LocalSource):
        raise _NotTestable("it does not lie in a file of its own")
    stat = part.source.stat
    return TensorFile(stat.path, stat.size, stat.mtime_ns, stat.ino)


def _view(views: tuple[View, ...], origins: Mapping[Place, Origin]) -> TensorView:
    (view,) = views  # nothing is put together from several on the way to diffusers
    file, name = origins[view.component, view.name]
    return TensorView(file, name, view.rows, view.transposed, view.shape)


def _incomplete(path: str, identity: Identity, layout: Layout) -> SmokeResult:
    """The result of a model that lacks tensors: it has failed before anything is loaded."""
    count = len(layout.missing)
    others = f" and {count - 1} others" if count > 1 else ""
    sentence = f"there is no tensor {layout.missing[0][1]!r:.150}{others}"
    check = Check("keys.missing", "failed", count, "= 0", sentence)
    facts = {"missing": [name for _, name in layout.missing]}
    return SmokeResult(path, "failed", sentence, identity.kind, identity.architecture, (check,), facts=facts)


def _require_whole(pipeline: str, layout: Layout, index: Mapping[str, object]) -> None:
    if pipeline not in PIPELINES:
        raise _NotTestable(f"there is no test yet for what diffusers runs as {pipeline}")
    needed = ("unet", "vae", "text_encoder", *(("text_encoder_2",) if "text_encoder_2" in index else ()))
    absent = [name for name in needed if name not in layout.components]
    if absent:
        raise _NotTestable(f"it has no {' and no '.join(absent)}")
