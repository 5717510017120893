"""Carrying a planned extraction out: one module's difference is in memory at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from modelhub import __version__
from modelhub.convert import SALVAGED_KEY, ConversionPlan, OutputFile, Piece, PlannedTensor
from modelhub.convert.background import Background
from modelhub.convert.execute import check_target, check_unchanged
from modelhub.convert.integrity import check_sources
from modelhub.errors import MergeError
from modelhub.lowrank.base import Difference, ExtractedModule, Extraction, ExtractPlan, Kept, in_total
from modelhub.lowrank.decomposing import balanced, decompose
from modelhub.lowrank.spool import TYPES, Spool
from modelhub.merge.compute import BLOCK
from modelhub.merge.reading import Rows, torch_type
from modelhub.tensors import DType

EXTRACT_KEY = "modelhub.extract"
"""Metadata key: how the LoRA was extracted, as JSON."""


def execute(
    plan: ExtractPlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Extraction:
    """Write the LoRA that *plan* says to *target*; *progress* is told the bytes of *tuned* as they are done.

    Modules that did not change are left out. Raises :class:`MergeError` where the models are the same, or a difference
    is not finite or out of range, and what :func:`modelhub.convert.execute` raises.
    """
    path = os.fspath(target)
    read = _read(plan)
    check_target(read, path, force=force, merging=True)
    kept: dict[str, Kept] = {}
    same = 0
    dtype = TYPES[plan.dtype]
    with Background(lambda stopped: check_sources(read, stopped, digest=True)) as reading, Spool(path) as spool:
        for module in plan.modules:
            matrix = _difference(module, plan.tuned)
            if bool(matrix.any()):
                decomposed = decompose(matrix, plan.rule, plan.rule.most(kernel=module.kernel))
                rank = len(decomposed.values)
                up, down = balanced(decomposed)
                inner = module.shape[1:]
                spool.add(f"{module.name}.lora_up.weight", up.reshape(-1, rank, *(1 for _ in inner[1:])), dtype)
                spool.add(f"{module.name}.lora_down.weight", down.reshape(rank, *inner), dtype)
                spool.add(f"{module.name}.alpha", torch.tensor(float(rank)), DType.F32)
                share = min(1.0, float(decomposed.values.square().sum()) / decomposed.energy)
                kept[module.name] = Kept(None, rank, math.sqrt(decomposed.energy), share)
            else:
                same += 1
            if progress is not None:
                progress(sum(part.nbytes for part in module.parts))
        left = dict(_changes(plan.others))
        if not kept:
            raise MergeError(f"{plan.tuned}: it differs from {plan.base} in no module that a LoRA is made of")
        found = {each.source.name: each.digest.sha256 for each in reading.result() if each.digest is not None}
        digests = {
            model: {name: found[source.name] for name, source in files.items() if source.name in found}
            for model, files in plan.files.items()
        }
        check_unchanged(read)
        conversion = spool.write({}, _metadata(plan, kept, digests), force=force)
    return Extraction(plan, conversion, kept, same, left, digests)


def _read(plan: ExtractPlan) -> ConversionPlan:
    """Everything that is read, as a plan whose sources can be checked."""
    pieces = [piece for module in plan.modules for part in module.parts for piece in (part.tuned, part.base)]
    pieces += [piece for pair in plan.others.values() for piece in pair]
    planned = (PlannedTensor(p.tensor.name, p.tensor.dtype, p.tensor.shape, (p,), 0, 0) for p in pieces)
    return ConversionPlan(plan.tuned, (OutputFile("", b"", tuple(planned), {}),))


def _difference(module: ExtractedModule, tuned: str) -> Tensor:
    """The module's change as a matrix in F32, each output a row."""
    parts = [_rows_of(part) for part in module.parts]
    matrix = parts[0] if len(parts) == 1 else torch.cat(parts)
    matrix = matrix.T if module.transposed else matrix
    if not bool(matrix.isfinite().all()):
        raise MergeError(f"{tuned}: {module.name}: its weights have values that are not finite")
    return matrix


def _rows_of(part: Difference) -> Tensor:
    begin, end = part.rows
    columns = math.prod(part.base.tensor.shape[1:])
    made = torch.empty(end - begin, columns)
    step = max(1, BLOCK // columns)
    tuned, base = Rows(part.tuned), Rows(part.base)
    for first in range(begin, end, step):
        count = min(step, end - first)
        new, old = (_wide(rows, piece, first, count) for rows, piece in ((tuned, part.tuned), (base, part.base)))
        made[first - begin : first - begin + count] = new.sub_(old)
    return made


def _wide(rows: Rows, piece: Piece, first: int, count: int) -> Tensor:
    columns = math.prod(piece.tensor.shape[1:])
    stored = torch.empty(count, columns, dtype=torch_type(piece.tensor.dtype))
    rows.read(first * columns, stored)
    return stored.to(torch.float64 if stored.dtype is torch.float64 else torch.float32)


def _changes(pairs: Mapping[str, tuple[Piece, Piece]]) -> Iterator[tuple[str, tuple[float, float]]]:
    """The norms of change and weight of the tensors that changed."""
    for name, (tuned, base) in pairs.items():
        rows = base.tensor.shape[0] if base.tensor.shape else 1
        columns = math.prod(base.tensor.shape[1:])
        change = weight = 0.0
        step = max(1, BLOCK // max(1, columns))
        readers = Rows(tuned), Rows(base)
        for first in range(0, rows if columns else 0, step):
            count = min(step, rows - first)
            new, old = _wide(readers[0], tuned, first, count), _wide(readers[1], base, first, count)
            weight += float(torch.linalg.vector_norm(old)) ** 2
            change += float(torch.linalg.vector_norm(new.sub_(old))) ** 2
        if change:
            yield name, (math.sqrt(change), math.sqrt(weight))


def _metadata(plan: ExtractPlan, kept: Mapping[str, Kept], digests: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    rule = plan.rule
    how = {
        "version": __version__,
        "tuned": os.path.basename(plan.tuned.rstrip(os.sep)),
        "base": os.path.basename(plan.base.rstrip(os.sep)),
        "sha256": digests,
        "rank": rule.rank,
        "conv_rank": rule.conv_rank,
        "dynamic": f"{rule.dynamic[0]}={rule.dynamic[1]:g}" if rule.dynamic is not None else None,
        "energy": round(in_total(kept), 6),
    }
    salvaged = {SALVAGED_KEY: "true"} if plan.salvaged else {}
    return {**plan.metadata, **salvaged, EXTRACT_KEY: json.dumps(how)}
