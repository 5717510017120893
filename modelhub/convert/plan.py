"""Deciding, before a byte is written, what a conversion will write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from modelhub.container.base import Container
from modelhub.convert.arrange import arranged
from modelhub.convert.base import ConversionPlan, Draft, PlainFile
from modelhub.convert.casting import cast
from modelhub.convert.components import part_of_kind, split
from modelhub.convert.convertible import convertible
from modelhub.convert.folder_files import NO_FILES, FolderFiles
from modelhub.convert.folder_plan import plan_folder
from modelhub.convert.modelspec import modelspec
from modelhub.convert.names import named_tensors, output_metadata
from modelhub.convert.options import NO_OPTIONS, ConversionOptions
from modelhub.convert.pruning import apply_ema, prune, select
from modelhub.convert.stream import Run, runs
from modelhub.convert.vae_swap import swap_vae
from modelhub.errors import ConversionError, NothingToConvert
from modelhub.source import Source
from modelhub.tensors import Leftover

if TYPE_CHECKING:
    from modelhub.identify import Identity


def plan_conversion(
    container: Container,
    identity: Identity | None = None,
    options: ConversionOptions = NO_OPTIONS,
    *,
    metadata: Mapping[str, str] | None = None,
    vae: Container | None = None,
    beside: FolderFiles = NO_FILES,
    vocabulary: Mapping[str, Source] | None = None,
    anew: bool = False,
) -> ConversionPlan:
    """What converting *container* to safetensors will write; reads nothing and writes nothing.

    By default the output holds every tensor of the state dict, in the order in which ``safetensors.torch.save_file``
    would write them; without plain values or shared bytes in the source it is byte for byte that function's output
    with ``{"format": "pt"}``. Tensors that share bytes each get their own copy. Names and metadata are as
    :mod:`modelhub.convert.names` says; *metadata* is added to it. *options* say what is changed on the way; *vae* is a
    file whose VAE replaces the source's, *vocabulary* the files of a tokenizer for a diffusers folder. *identity*,
    where it is known, keeps a file that is no embedding from being named like one, tells the part of files that are one
    part as a whole, and what a model laid out as a folder predicts. A folder becomes a folder, with *beside*, its files
    without weights (:func:`~modelhub.convert.folder_files.open_beside`), unless its layout is to be a checkpoint's.
    With *anew* a safetensors file is planned though nothing changes: another file is to be compared with it.

    Raises :class:`NothingToConvert` (no tensors, or safetensors already), :class:`UnsupportedDtype`,
    :class:`UnsupportedLayout`, :class:`Truncated`, :class:`Malformed`, :class:`LimitExceeded`,
    :class:`UnknownContainer`, :class:`MissingExtra` or plain :class:`ConversionError`, each naming the file and the
    tensor.
    """
    name = container.name
    if container.source is None and options.layout != "ldm":
        if vae is not None:
            raise ConversionError(f"{name}: a VAE is put into a single file; in a folder, replace the one in its vae/")
        return plan_folder(container, replace(options, layout=None), metadata or {}, beside)
    kind = identity.kind if identity is not None else None
    whole = part_of_kind(kind)
    drafts, kept, left = _named(container, identity, options, beside, vae, anew=anew)
    drafts = {path: _edited(draft, options, whole, name, vae) for path, draft in drafts.items()}
    plain: tuple[PlainFile, ...] = ()
    if options.layout == "diffusers":
        drafts, plain = _folder(drafts, options, name, identity, vocabulary)
    elif options.components:
        drafts = _split(drafts, options.components, name, whole)
    if options.modelspec:
        if identity is None:
            raise ConversionError(f"{name}: ModelSpec metadata needs its identity")
        kept |= modelspec(identity, os.path.splitext(os.path.basename(name))[0], options.layout or "ldm", name)
    plan = arranged(name, drafts, {**kept, **(metadata or {}), **options.metadata}, options)
    plan = replace(plan, leftovers=(*plan.leftovers, *left), plain=(*plan.plain, *plain))
    if (
        container.kind == "safetensors"
        and container.source is not None
        and not anew
        and _is_source(plan, container.source)
    ):
        raise NothingToConvert(f"{name}: it is already what was asked for")
    return plan


def _named(
    container: Container,
    identity: Identity | None,
    options: ConversionOptions,
    beside: FolderFiles,
    vae: Container | None,
    *,
    anew: bool,
) -> tuple[Mapping[str, Draft], dict[str, str], tuple[Leftover, ...]]:
    """The source's tensors by each output file's name, its metadata, and what can be neither."""
    if container.source is None:
        from modelhub.convert.folders import checkpoint_of

        draft, metadata = checkpoint_of(container, beside)
        if identity is not None and identity.prediction_type == "v_prediction" and "v_pred" not in draft.tensors:
            draft = draft.changed(draft.tensors, _PREDICTS_V)
        return {"": draft}, metadata, ()
    state_dict = convertible(container, dense=options.dense)
    if container.kind == "safetensors" and options.changes_nothing and vae is None and not anew:
        hint = "say what to change: --dtype, --prune ..."
        raise NothingToConvert(f"{container.name}: it is safetensors already", hint=hint)
    kind = identity.kind if identity is not None else None
    drafts = named_tensors(state_dict, container.source, kind, dense=options.dense)
    if options.layout == "ldm":
        from modelhub.convert.relayout import lone_component

        drafts = {path: lone_component(draft, container.name) for path, draft in drafts.items()}
    return drafts, *output_metadata(state_dict)


_PREDICTS_V = "the model predicts v, which nothing in a checkpoint of this kind says but metadata: see --modelspec"


def _edited(draft: Draft, options: ConversionOptions, whole: str | None, name: str, vae: Container | None) -> Draft:
    """*draft* with other tensors, and in other types, as *options* say."""
    if vae is not None:
        assert vae.source is not None
        from modelhub.convert.relayout import lone_component

        (other,) = named_tensors(convertible(vae), vae.source, "vae").values()
        draft = swap_vae(draft, lone_component(other, vae.name), name, vae.name)
    if options.include or options.exclude:
        draft = select(draft, options.include, options.exclude, name)
    draft = apply_ema(draft, options.ema or ("drop" if options.prune else "keep"), name)
    if options.prune:
        draft = prune(draft)
    return cast(draft, options.dtypes, whole) if options.dtypes else draft


def _folder(
    drafts: Mapping[str, Draft],
    options: ConversionOptions,
    name: str,
    identity: Identity | None,
    vocabulary: Mapping[str, Source] | None,
) -> tuple[Mapping[str, Draft], tuple[PlainFile, ...]]:
    """The files of the diffusers folder that *drafts*, a checkpoint, becomes."""
    from modelhub.convert.relayout import as_folder

    if options.components:
        raise ConversionError(f"{name}: a diffusers folder has all components in it", hint="leave out --components")
    (whole, *others) = drafts.values()
    if others:
        raise ConversionError(f"{name}: embeddings have no layout as a folder")
    return as_folder(whole, name, identity.prediction_type if identity is not None else None, vocabulary)


def _split(
    drafts: Mapping[str, Draft], components: tuple[str, ...], name: str, whole: str | None
) -> Mapping[str, Draft]:
    """The components' drafts by file name; one alone needs no name of its own."""
    if len(drafts) > 1:
        raise ConversionError(f"{name}: an embedding of several tokens has no components")
    (draft,) = drafts.values()
    parts, rest = split(draft, components, name, whole)
    files = {f"{part}.safetensors" if len(parts) > 1 else "": each for part, each in parts.items()}
    first = next(iter(files))
    return {**files, first: replace(rest, tensors=files[first].tensors)}


def _is_source(plan: ConversionPlan, source: Source) -> bool:
    """Whether the only output would be *source*, byte for byte."""
    if plan.is_folder or plan.size != source.size:
        return False
    (output,) = plan.outputs
    start = len(output.header)
    return source.read_at(0, start) == output.header and all(
        run.source is source and run.start == start + planned.begin + run.offset
        for planned in output.tensors
        for run in runs(planned) or (Run(source, -1, 0, 0),)
    )
