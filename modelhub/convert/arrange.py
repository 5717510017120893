"""Giving the tensors of an output their places: their order, their alignment, and their files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from modelhub.container.safetensors import canonical_order, encode_header
from modelhub.convert.base import Assembly, ConversionPlan, Draft, OutputFile, PlainFile, PlannedTensor
from modelhub.convert.convertible import check_tensors
from modelhub.convert.names import SHARED_KEY
from modelhub.convert.options import ConversionOptions
from modelhub.convert.sharing import dedupe, duplicated_bytes, shared_groups
from modelhub.errors import NothingToConvert
from modelhub.source import BytesSource

Tensors = Mapping[str, Assembly]


def output_file(path: str, tensors: Tensors, metadata: Mapping[str, str], align: int | None = None) -> OutputFile:
    """The file *path* of *tensors* by name, in the order in which ``safetensors.torch.save_file`` would write them.

    Without further metadata than ``format`` it is byte for byte that function's output. With *align*, a power of two,
    the data section and every tensor whose size is a multiple of *align* bytes begin at multiples of it in the file.
    """
    planned: list[PlannedTensor] = []
    begin = 0
    for name in _order(tensors, align):
        made = tensors[name]
        end = begin + made.nbytes
        planned.append(PlannedTensor(name, made.dtype, made.shape, made.pieces, begin, end))
        begin = end
    header = encode_header(((p.name, p.dtype, p.shape, p.nbytes) for p in planned), metadata, align=align or 8)
    return OutputFile(path, header, tuple(planned), dict(sorted(metadata.items())))


def output_files(
    path: str, tensors: Tensors, metadata: Mapping[str, str], align: int | None, most: int
) -> tuple[tuple[OutputFile, ...], tuple[PlainFile, ...]]:
    """:func:`output_file` in files of at most *most* bytes of tensors, a larger tensor in one of its own.

    Where one file will do it is *path*. Else they are named and indexed as transformers and diffusers look for them:
    ``model-00001-of-00002.safetensors`` and ``model.safetensors.index.json``.
    """
    shards = list(_shards(tensors, _order(tensors, align), most))
    if len(shards) == 1:
        return (output_file(path, tensors, metadata, align),), ()
    whole = path or "model.safetensors"
    stem, extension = os.path.splitext(whole)
    outputs: list[OutputFile] = []
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        shard = f"{stem}-{number:05}-of-{len(shards):05}{extension}"
        outputs.append(output_file(shard, {name: tensors[name] for name in names}, metadata, align))
        places |= dict.fromkeys(names, os.path.basename(shard))
    total = sum(made.nbytes for made in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return tuple(outputs), (json_file(f"{whole}.index.json", index),)


def arranged(
    name: str, drafts: Mapping[str, Draft], metadata: Mapping[str, str], options: ConversionOptions
) -> ConversionPlan:
    """The plan of one file for each of *drafts* by path, or of the shards that it takes; *name* is the source's.

    Raises :class:`NothingToConvert` for a file without tensors, and what :func:`check_tensors` raises.
    """
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
            kept = {**removed, **kept}  # a tensor may be called format
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


def json_file(path: str, value: Mapping[str, object]) -> PlainFile:
    """The JSON file *path* that holds *value*, written as transformers and diffusers write theirs."""
    return PlainFile(path, BytesSource(path, json.dumps(value, indent=2).encode() + b"\n"))


def _order(tensors: Tensors, align: int | None) -> list[str]:
    """The names of *tensors* in the order in which they will lie.

    For *align* the sizes divisible by the largest powers of two come first, up to *align*: what follows a row of
    multiples of a power of two begins at a multiple of it.
    """
    names = canonical_order({name: made.dtype for name, made in tensors.items()})
    if align is None:
        return names
    sizes = {name: made.nbytes or align for name, made in tensors.items()}
    return sorted(names, key=lambda name: -min(align, sizes[name] & -sizes[name]))


def _shards(tensors: Tensors, order: list[str], most: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name in order:
        nbytes = tensors[name].nbytes
        if names and size + nbytes > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes
    yield names
