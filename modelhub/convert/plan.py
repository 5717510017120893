"""Deciding, before a byte is written, what a conversion will write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from modelhub.container.base import Container
from modelhub.convert.arrange import output_file, output_files
from modelhub.convert.base import ConversionPlan, Draft, OutputFile, PlainFile
from modelhub.convert.casting import cast
from modelhub.convert.components import split
from modelhub.convert.convertible import check_tensors, convertible
from modelhub.convert.modelspec import modelspec
from modelhub.convert.names import SHARED_KEY, named_tensors, output_metadata
from modelhub.convert.options import NO_OPTIONS, ConversionOptions
from modelhub.convert.pruning import apply_ema, prune
from modelhub.convert.sharing import dedupe, duplicated_bytes, shared_groups
from modelhub.convert.stream import Run, runs
from modelhub.convert.vae_swap import swap_vae
from modelhub.errors import ConversionError, NothingToConvert
from modelhub.source import Source

if TYPE_CHECKING:
    from modelhub.identify import Identity


def plan_conversion(
    container: Container,
    identity: Identity | None = None,
    options: ConversionOptions = NO_OPTIONS,
    *,
    metadata: Mapping[str, str] | None = None,
    vae: Container | None = None,
) -> ConversionPlan:
    """What converting *container* to safetensors will write; reads nothing and writes nothing.

    By default the output holds every tensor of the state dict, in the order in which ``safetensors.torch.save_file``
    would write them; without plain values or shared bytes in the source it is byte for byte that function's output
    with ``{"format": "pt"}``. Tensors that share bytes each get their own copy. Names and metadata are as
    :mod:`modelhub.convert.names` says; *metadata* is added to it. *options* say what is changed on the way; *vae* is a
    file whose VAE replaces the source's. *identity*, where it is known, keeps a file that is no embedding from being
    named like one, and tells the part of files that are one part as a whole.

    Raises :class:`NothingToConvert` (no tensors, or safetensors already), :class:`UnsupportedDtype`,
    :class:`UnsupportedLayout`, :class:`Truncated`, :class:`Malformed`, :class:`LimitExceeded`,
    :class:`UnknownContainer`, :class:`MissingExtra` or plain :class:`ConversionError`, each naming the file and the
    tensor.
    """
    name = container.name
    if container.source is None:
        raise ConversionError(f"{name}: a folder is not converted as a whole; name one of its files")
    state_dict = convertible(container)
    if container.kind == "safetensors" and options.changes_nothing and vae is None:
        raise NothingToConvert(f"{name}: it is safetensors already", hint="say what to change: --dtype, --prune ...")
    kind = identity.kind if identity is not None else None
    drafts = named_tensors(state_dict, container.source, kind)
    drafts = {path: _edited(draft, options, kind, name, vae) for path, draft in drafts.items()}
    kept, left = output_metadata(state_dict)
    if options.components:
        drafts = _split(drafts, options.components, name, kind)
    if options.modelspec:
        if identity is None:
            raise ConversionError(f"{name}: ModelSpec metadata needs its identity")
        kept |= modelspec(identity, os.path.splitext(os.path.basename(name))[0], "ldm", name)
    plan = _arranged(name, drafts, {**kept, **(metadata or {}), **options.metadata}, options)
    plan = replace(plan, leftovers=(*plan.leftovers, *left))
    if container.kind == "safetensors" and _is_source(plan, container.source):
        raise NothingToConvert(f"{name}: it is already what was asked for")
    return plan


def _edited(draft: Draft, options: ConversionOptions, kind: str | None, name: str, vae: Container | None) -> Draft:
    """*draft* with other tensors, and in other types, as *options* say."""
    if vae is not None:
        assert vae.source is not None
        (other,) = named_tensors(convertible(vae), vae.source, "vae").values()
        draft = swap_vae(draft, other, name, vae.name)
    draft = apply_ema(draft, options.ema or ("drop" if options.prune else "keep"), name)
    if options.prune:
        draft = prune(draft)
    return cast(draft, options.dtypes, kind) if options.dtypes else draft


def _split(
    drafts: Mapping[str, Draft], components: tuple[str, ...], name: str, kind: str | None
) -> Mapping[str, Draft]:
    """The components' drafts by file name; one alone needs no name of its own."""
    if len(drafts) > 1:
        raise ConversionError(f"{name}: an embedding of several tokens has no components")
    (whole,) = drafts.values()
    parts, rest = split(whole, components, name, kind)
    files = {f"{part}.safetensors" if len(parts) > 1 else "": draft for part, draft in parts.items()}
    first = next(iter(files))
    return {**files, first: replace(rest, tensors=files[first].tensors)}


def _arranged(
    name: str, drafts: Mapping[str, Draft], metadata: Mapping[str, str], options: ConversionOptions
) -> ConversionPlan:
    """The plan of one file for each of *drafts*, or of the shards that it takes."""
    outputs: list[OutputFile] = []
    plain: list[PlainFile] = []
    plan = ConversionPlan(name, ())
    for path, edited in drafts.items():
        if not edited.tensors:
            raise NothingToConvert(f"{name}: no tensor would be left")
        check_tensors(edited.tensors, name)
        kept = dict(metadata)
        groups = shared_groups(edited.tensors)
        if groups:
            kept[SHARED_KEY] = json.dumps(groups, ensure_ascii=False, separators=(",", ":"))
        draft = edited
        if options.dedupe_shared:
            draft, removed = dedupe(edited)
            kept |= removed
            groups = shared_groups(draft.tensors)
        if options.max_shard_size is None:
            outputs.append(output_file(path, draft.tensors, kept, options.align))
        else:
            files, beside = output_files(path, draft.tensors, kept, options.align, options.max_shard_size)
            outputs += files
            plain += beside
        plan = replace(
            plan,
            leftovers=plan.leftovers + draft.leftovers,
            notes=plan.notes + draft.notes,
            duplicated=plan.duplicated + groups,
            duplicated_bytes=plan.duplicated_bytes + duplicated_bytes(draft.tensors, groups),
        )
    return replace(plan, outputs=tuple(outputs), plain=tuple(plain))


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
