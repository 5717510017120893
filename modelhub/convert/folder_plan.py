"""What converting a folder of model files will write: the same folder, its weights in safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from modelhub.container.base import Container
from modelhub.convert.arrange import arranged, json_file
from modelhub.convert.base import ConversionPlan, Draft, PlainFile
from modelhub.convert.casting import cast, is_left_alone
from modelhub.convert.components import component_named
from modelhub.convert.folder_files import FolderFiles, Shards, drafts_of, index_of, index_path, weight_groups
from modelhub.convert.options import ConversionOptions
from modelhub.errors import ConversionError, NothingToConvert
from modelhub.tensors import DType


def plan_folder(
    folder: Container,
    options: ConversionOptions,
    metadata: Mapping[str, str],
    beside: FolderFiles,
    changed: frozenset[str] | None = None,
) -> ConversionPlan:
    """What converting *folder*, a diffusers pipeline or one model in transformers' form, will write.

    Of *options* those apply that a component's file can have: casts, alignment, shared tensors, shards and metadata;
    files that are safetensors already and that nothing changes are copied. *metadata* is added to every file's.
    *changed* are the weights (:class:`Shards`' paths) whose bytes somebody else will change: only those are written
    anew in any case, and only those get the metadata; where there are none, all of the folder may be copied.
    Raises :class:`ConversionError` for other options, :class:`NothingToConvert` where nothing would change, and what
    planning a file raises.
    """
    name = folder.name
    chosen = options.components or options.include or options.exclude
    if options.prune or options.ema is not None or chosen or options.modelspec:
        asked = "--prune, --ema, --include, --exclude, --components and --modelspec"
        raise ConversionError(f"{name}: {asked} are for single files", hint="name one of the folder's files")
    groups, left = weight_groups(folder)
    plan = ConversionPlan(name, (), beside.plain, (*beside.left, *left))
    for shards in groups:
        added = metadata if changed is None or shards.path in changed else {}
        if not (changed and shards.path in changed) and _is_kept(folder, shards, options, added):
            plan = replace(plan, plain=(*plan.plain, *_copies(folder, shards)))
        else:
            plan = _joined(plan, _plan_shards(folder, shards, options, added))
    if options.dtypes:
        plan = _with_types_told(plan, folder)
    if not plan.outputs and (changed is None or not groups):
        raise NothingToConvert(f"{name}: {'it is safetensors already' if groups else 'there are no weights in it'}")
    return plan


def _plan_shards(
    folder: Container, shards: Shards, options: ConversionOptions, metadata: Mapping[str, str]
) -> ConversionPlan:
    drafts, kept, left = drafts_of(folder, shards)
    if options.max_shard_size is not None:
        tensors = {name: made for draft in drafts.values() for name, made in draft.tensors.items()}
        drafts = {shards.path: Draft(tensors, notes=tuple(note for draft in drafts.values() for note in draft.notes))}
    if options.dtypes:
        whole = component_named(shards.path.partition("/")[0])
        drafts = {path: cast(draft, options.dtypes, whole) for path, draft in drafts.items()}
    plan = arranged(folder.name, drafts, {**kept, **metadata, **options.metadata}, options)
    index = f"{shards.path}.index.json"
    plain = tuple(replace(file, path=index_path(shards.path)) if file.path == index else file for file in plan.plain)
    if shards.index is not None and options.max_shard_size is None:
        plain = (*plain, json_file(index_path(shards.path), index_of(plan.outputs)))
    notes = tuple(f"{shards.path}: {note}" for note in plan.notes)
    return replace(plan, plain=plain, leftovers=(*plan.leftovers, *left), notes=notes)


def _with_types_told(plan: ConversionPlan, folder: Container) -> ConversionPlan:
    """*plan* with the configurations that say a type (transformers' ``torch_dtype``, since version 5 ``dtype``) saying
    that of the weights beside them, where those are all of one."""
    found: dict[str, set[DType]] = {}
    for output in plan.outputs:
        types = found.setdefault(os.path.dirname(output.path), set())
        types |= {each.dtype for each in output.tensors if each.dtype.is_float and not is_left_alone(each.name)}
    plain = {file.path: file for file in plan.plain}
    notes: list[str] = []
    for part, types in found.items():
        path = f"{part}/config.json" if part else "config.json"
        config = folder.configs.get(path)
        if len(types) != 1 or config is None or path not in plain:
            continue
        (dtype,) = types
        stale = [key for key in ("torch_dtype", "dtype") if config.get(key) not in (None, dtype.torch_name)]
        if stale:
            plain[path] = json_file(path, {**config, **dict.fromkeys(stale, dtype.torch_name)})
            notes.append(f"{path}: {' and '.join(stale)} is {dtype.torch_name} now")
    return replace(plan, plain=tuple(plain.values()), notes=(*plan.notes, *notes))


def _is_kept(folder: Container, shards: Shards, options: ConversionOptions, metadata: Mapping[str, str]) -> bool:
    """Whether the files of *shards* are copied as they are."""
    return options.changes_nothing and not metadata and all(folder.parts[f].kind == "safetensors" for f in shards.files)


def _copies(folder: Container, shards: Shards) -> tuple[PlainFile, ...]:
    copies = [PlainFile(file, source) for file in shards.files if (source := folder.parts[file].source) is not None]
    if shards.index is not None:
        copies.append(json_file(shards.index, folder.configs[shards.index]))
    return tuple(copies)


def _joined(first: ConversionPlan, second: ConversionPlan) -> ConversionPlan:
    return replace(
        first,
        outputs=first.outputs + second.outputs,
        plain=first.plain + second.plain,
        leftovers=first.leftovers + second.leftovers,
        duplicated=first.duplicated + second.duplicated,
        duplicated_bytes=first.duplicated_bytes + second.duplicated_bytes,
        notes=first.notes + second.notes,
    )
