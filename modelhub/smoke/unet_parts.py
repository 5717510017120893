"""The parts of models with a UNet: SD 1, SD 2, SDXL and its refiner, whole or their UNet alone.

The configurations are our own, made from the shapes: no JSON file of a downloaded folder reaches a loader.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.container import Container
from modelhub.convert.layouts import (
    CHECKPOINT,
    FOLDER_COMPONENTS,
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
from modelhub.smoke.parts import Incomplete, NotTestable, Opened, Parts, Shapes, opened, seen
from modelhub.smoke.spec import Component, TensorView

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

NATIVE = {"sd-1": 512, "sd-2": 512, "sdxl": 1024, "sdxl-refiner": 1024}
_SD2_V_SIZE = 768
"""Pixels that models were trained at (SD 2 with v-prediction: 768)."""

_BARE, _UNET = "input_blocks.0.0.weight", "model.diffusion_model."
_PREDICTIONS = ("epsilon", "v_prediction")


def unet_parts(container: Container, identity: Identity) -> Parts:
    """The parts of the checkpoint, folder or UNet in *container*, which may lack components.

    Raises :class:`NotTestable` for what no pipeline is run for, :class:`Incomplete` and
    :class:`~modelhub.errors.ConversionError`.
    """
    prediction = identity.prediction_type if identity.prediction_type in _PREDICTIONS else None
    found = _with_prefix(opened(container, FOLDER_COMPONENTS))
    told = Told(prediction)
    layout = to_diffusers(found.shapes[CHECKPOINT], told) if CHECKPOINT in found.shapes else None
    layout = layout or as_it_lies(found.shapes, told)
    if layout.missing:
        raise Incomplete(tuple(name for _, name in layout.missing))
    return _parts(layout, found, identity.architecture, random=False)


def random_parts(architecture: str) -> Parts:
    """The parts of a model of *architecture* (``sd-1``, ``sd-2``, ``sdxl``) in its full size, of random weights."""
    shapes = {CHECKPOINT: random_shapes(architecture)}
    return _parts(to_diffusers(shapes[CHECKPOINT]), Opened((), shapes, {}), architecture, random=True)


def random_shapes(architecture: str) -> Mapping[str, Shape]:
    """Names and shapes of a checkpoint of *architecture*, as published ones have them."""
    if architecture not in NATIVE:
        raise NotTestable(f"there is no test yet for adapters of {architecture} without a base (--base)")
    return {name: shape for name, (_, shape) in checkpoint(architecture).items()}  # type: ignore[arg-type]


def require_pipeline(parts: Parts) -> tuple[str, ...]:
    """The components that the pipeline of *parts* needs. Raises :class:`NotTestable` for one that is not run."""
    pipeline = parts.pipeline
    if pipeline not in PIPELINES:
        raise NotTestable(f"there is no test yet for what diffusers runs as {pipeline}")
    if str(parts.scheduler["_class_name"]).startswith("EDM"):
        raise NotTestable("there is no test yet for models of the EDM formulation")
    xl = ("text_encoder_2",) if "XL" in pipeline else ()
    encoders = xl if pipeline == "StableDiffusionXLImg2ImgPipeline" else ("text_encoder", *xl)
    return ("unet", "vae", *encoders)


def _with_prefix(found: Opened) -> Opened:
    """*found*, of which a UNet alone is the component that it is, or has the names that it has in a checkpoint."""
    shapes = found.shapes.get(CHECKPOINT, {})
    component = component_under_diffusers_names(shapes) or CHECKPOINT
    prefix = _UNET if component == CHECKPOINT and _BARE in shapes else ""
    if component == CHECKPOINT and not prefix:
        return found
    return Opened(
        found.files,
        {component: {prefix + name: shape for name, shape in shapes.items()}},
        {(component, prefix + name): origin for (_, name), origin in found.origins.items()},
    )


def _parts(layout: Layout, found: Opened, architecture: str | None, *, random: bool) -> Parts:
    scheduler = layout.configs["scheduler/scheduler_config.json"]
    native = NATIVE.get(architecture or "", 512)
    if architecture == "sd-2" and scheduler["prediction_type"] == "v_prediction":
        native = _SD2_V_SIZE

    def view(views: tuple[View, ...]) -> TensorView:
        (only,) = views  # nothing is put together from several on the way to diffusers
        return seen(only, found.origins[only.component, only.name])

    return Parts(
        pipeline=str(layout.configs["model_index.json"]["_class_name"]),
        files=found.files,
        components={
            name: Component(
                layout.configs[f"{name}/config.json"],
                None if random else {key: view(views) for key, views in pieces.items()},
            )
            for name, pieces in layout.components.items()
        },
        shapes=_shapes(layout, found.shapes),
        scheduler=scheduler,
        unused=tuple(name for component, name in layout.unused if component != UNPLACED),
        native=native,
    )


def _shapes(layout: Layout, shapes: Shapes) -> Shapes:
    return {
        name: {
            key: viewed_shape(views, {view.name: shapes[view.component][view.name] for view in views})
            for key, views in pieces.items()
        }
        for name, pieces in layout.components.items()
    }
