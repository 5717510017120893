"""Carrying a model over into the other key layout: a checkpoint into a diffusers folder's files, and back.

What diffusers has no place for (the noise schedule's buffers, averaged weights, markers, the layer of SD 2's text
encoder that is never run) goes into the folder as :data:`UNPLACED_FILE`, which no loader of folders looks for, so that
the way back ends at the same checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelhub.convert.arrange import json_file
from modelhub.convert.base import Assembly, Draft, Piece, PlainFile
from modelhub.convert.layouts import (
    CHECKPOINT,
    UNPLACED,
    Layout,
    Shapes,
    Told,
    View,
    component_under_diffusers_names,
    given_when_loading,
    resolve,
    to_diffusers,
    to_ldm,
    viewed_shape,
)
from modelhub.convert.tokenizers import own_vocabulary
from modelhub.errors import ConversionError, UnsupportedLayout
from modelhub.source import Source
from modelhub.tensors import Leftover

Tensors = Mapping[str, Assembly]

UNPLACED_FILE = f"{UNPLACED}.safetensors"
"""The file of a folder that holds the checkpoint's tensors for which diffusers has no place."""

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_ALONE = {"decoder.mid.block_1.norm1.weight": _VAE, "input_blocks.0.0.weight": _UNET}
"""Tensors that only a VAE's or a UNet's own file has, under a checkpoint's names without the prefix."""

_LAST_OF_SD2 = "cond_stage_model.model.transformer.resblocks.23.ln_1.weight"
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


def as_folder(
    draft: Draft, name: str, prediction_type: str | None = None, vocabulary: Mapping[str, Source] | None = None
) -> tuple[Mapping[str, Draft], tuple[PlainFile, ...]]:
    """The checkpoint *draft* of the file *name* as the safetensors files of a diffusers folder, by relative path, and
    the files beside them.

    *prediction_type* is what the model predicts in diffusers' word, where it is known; *vocabulary* the files of a
    tokenizer by name, where they are not CLIP's own. Raises :class:`ConversionError` for a model without such a folder,
    or one that lacks something.
    """
    tensors = draft.tensors
    prefix = next((prefix for marker, prefix in _ALONE.items() if marker in tensors), "")
    tensors = {prefix + key: made for key, made in tensors.items()}
    vocabulary = vocabulary or own_vocabulary(_shapes(tensors))
    told = Told(prediction_type, _latents(tensors), vocabulary is not None)
    layout = _laid_out(lambda: to_diffusers(_shapes(tensors), told), name)
    _refuse_strangers([key for _, key in layout.unused if key.startswith(_UNET)], name, "diffusers")
    made = _made(layout, {CHECKPOINT: tensors})
    files = {f"{part}/{_WEIGHTS.get(part, 'model')}.safetensors": Draft(inner) for part, inner in made.items()}
    plain = [json_file(path, config) for path, config in layout.configs.items()]
    notes = [f"laid out as a diffusers folder: {', '.join(sorted(made))}"]
    unplaced = {key: tensors[key] for _, key in layout.unused}
    if unplaced:
        files[UNPLACED_FILE] = Draft(unplaced)
        notes.append(f"tensors that diffusers has no place for are kept in {UNPLACED_FILE}: {len(unplaced)}")
    for folder in (part.replace("text_encoder", "tokenizer") for part in made if part.startswith("text_encoder")):
        plain += [PlainFile(f"{folder}/{each}", source) for each, source in (vocabulary or {}).items()]
    absent = given_when_loading(layout.configs["model_index.json"])
    if absent:
        hint = "; --tokenizer adds tokenizers" if absent[0].startswith("tokenizer") else ""
        notes.append(f"not in a checkpoint, and to be given when the pipeline is loaded: {', '.join(absent)}{hint}")
    if "vae" in made and not made.keys() & {"unet", "text_encoder_2"}:
        notes.append("the scaling factor in vae/config.json is that of SD 1 and SD 2: for a VAE of SDXL it is 0.13025")
    first = next(iter(files))
    files[first] = draft.changed(files[first].tensors, *notes)
    return files, tuple(plain)


def as_checkpoint(components: Mapping[str, Tensors], name: str) -> Draft:
    """The *components* of the diffusers folder *name* as a checkpoint; :data:`UNPLACED` is what had no place there.

    Raises :class:`ConversionError` for a folder without a model of the sort, or one that lacks something.
    """
    layout = _laid_out(lambda: to_ldm({part: _shapes(tensors) for part, tensors in components.items()}), name)
    _refuse_strangers([key for part, key in layout.unused if part == "unet"], name, "a checkpoint")
    left = tuple(Leftover(f"{part}/{key}", "a tensor without a place in a checkpoint") for part, key in layout.unused)
    made = _made(layout, components)[CHECKPOINT]
    notes = [f"laid out as a checkpoint: {', '.join(sorted(components.keys() - {UNPLACED}))}"]
    if "cond_stage_model.model.ln_final.weight" in made and _LAST_OF_SD2 not in made:
        notes.append("the text encoder has not its last layer, which SD 2 does not run, since the folder has not")
    return Draft(made, left, tuple(notes))


def lone_component(draft: Draft, name: str) -> Draft:
    """*draft* with the names of a checkpoint, where it is a single component under diffusers' names.

    A VAE gets them without the prefix, as files of only a VAE have them. What is no such component stays as it is.
    """
    component = component_under_diffusers_names(draft.tensors)
    if component is None:
        return draft
    made = as_checkpoint({component: draft.tensors}, name)
    tensors = {key.removeprefix(_VAE): tensor for key, tensor in made.tensors.items()}
    return draft.changed(tensors, *made.notes, left=made.leftovers)


def _laid_out(plan: Callable[[], Layout], name: str) -> Layout:
    """What *plan* gives, complete, its errors naming the file *name*."""
    try:
        layout = plan()
    except ConversionError as error:
        raise ConversionError(f"{name}: {error}") from error
    if layout.missing:
        component, key = layout.missing[0]
        where = "" if component == CHECKPOINT else f" of {component}"
        others = f" and {len(layout.missing) - 1} others" if len(layout.missing) > 1 else ""
        raise ConversionError(f"{name}: it is incomplete: there is no tensor {key!r:.150}{where}{others}")
    return layout


def _refuse_strangers(strangers: list[str], name: str, there: str) -> None:
    """Refuse a UNet that would be another model *there* without the tensors *strangers*."""
    if strangers:
        others = f" and {len(strangers) - 1} others" if len(strangers) > 1 else ""
        raise ConversionError(f"{name}: {there} has no place for its UNet's tensor {strangers[0]!r:.100}{others}")


def _made(layout: Layout, sources: Mapping[str, Tensors]) -> Mapping[str, Tensors]:
    return {
        component: {key: _assembly(views, sources) for key, views in tensors.items()}
        for component, tensors in layout.components.items()
    }


def _assembly(views: tuple[View, ...], sources: Mapping[str, Tensors]) -> Assembly:
    """The tensor made up of *views*. Raises :class:`UnsupportedLayout` where their element types differ."""
    seen = [(view, sources[view.component][view.name]) for view in views]
    dtypes = {made.dtype for _, made in seen}
    if len(dtypes) > 1:
        labels = ", ".join(sorted(dtype.label for dtype in dtypes))
        raise UnsupportedLayout(
            f"{views[0].name!r:.100} and what is put together with it are of different types ({labels})",
        )
    pieces = tuple(piece for view, made in seen for piece in _pieces(view, made))
    shape = viewed_shape(views, {view.name: made.shape for view, made in seen})
    return Assembly(dtypes.pop(), shape, pieces)


def _pieces(view: View, made: Assembly) -> tuple[Piece, ...]:
    if view == View(view.component, view.name):
        return made.pieces
    if len(made.pieces) > 1:
        raise UnsupportedLayout(f"{view.name!r:.100} is put together from several tensors already")
    return tuple(Piece(piece.source, resolve(view, piece.tensor)) for piece in made.pieces)


def _shapes(tensors: Tensors) -> Shapes:
    return {key: made.shape for key, made in tensors.items()}


def _latents(tensors: Tensors) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The latents' statistics that Playground 2.5 has among its tensors; ``None`` where there are none to read."""
    if "edm_mean" not in tensors or "edm_std" not in tensors:
        return None
    from modelhub.identify import numbers

    values = []
    for key in ("edm_mean", "edm_std"):
        (piece, *_) = tensors[key].pieces
        read = numbers(piece.tensor, piece.source.read_at)
        if read is None:
            return None
        values.append(read)
    return values[0], values[1]
