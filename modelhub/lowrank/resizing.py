"""Carrying a planned resizing out."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import closing

import torch
from torch import Tensor

from modelhub import __version__
from modelhub.convert import SALVAGED_KEY, ConversionPlan, OutputFile, PlannedTensor
from modelhub.convert.execute import check_target, check_unchanged
from modelhub.convert.integrity import check_sources
from modelhub.errors import MergeError
from modelhub.lowrank.base import Kept, ResizedModule, ResizePlan, Resizing, in_total, network_dim
from modelhub.lowrank.decomposing import Decomposed, balanced, kept_rank
from modelhub.lowrank.spool import Spool
from modelhub.lowrank.working import worked
from modelhub.merge.lineage import with_older
from modelhub.merge.peft import CONFIG
from modelhub.merge.reading import whole
from modelhub.tensors import DType

RESIZE_KEY = "modelhub.resize"
"""Metadata key: how the LoRA was resized, as JSON; earlier times have numbers behind it."""


def execute(
    plan: ResizePlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Resizing:
    """Write the LoRA that *plan* says to *target*; *progress* is told the bytes of factors as they are done.

    Each module is ``up @ down`` of a smaller rank, and as strong as it was. The product itself is not made: with
    ``up = Q R`` and ``down.T = P S`` its singular values are those of ``R S.T``, which has the old rank's size.

    Raises :class:`MergeError` for factors that do not fit each other or are not finite, and what
    :func:`modelhub.convert.execute` raises.
    """
    path = os.fspath(target)
    read = _read(plan)
    check_target(read, path, force=force, merging=True)
    folder = os.path.dirname(os.path.abspath(path))
    if any(module.alpha is None for module in plan.modules) and os.path.exists(os.path.join(folder, CONFIG)):
        hint = "name another folder: the scales are in the factors now"
        raise MergeError(f"{path}: {CONFIG} beside it would scale it once more", hint=hint)
    (checked,) = check_sources(read, threading.Event(), digest=True)
    assert checked.digest is not None
    kept: dict[str, Kept] = {}
    with Spool(path) as spool, closing(worked(plan.modules, lambda module: _resized(module, plan))) as modules:
        for module, (kept[module.name], tensors) in modules:
            for name, values, dtype in tensors:
                spool.add(name, values, dtype)
            if progress is not None:
                progress(sum(piece.tensor.nbytes for piece in module.tensors.values()))
        check_unchanged(read)
        conversion = spool.write(plan.copied, _metadata(plan, kept, checked.digest.sha256), force=force)
    return Resizing(plan, conversion, kept, checked.digest.sha256)


def _resized(module: ResizedModule, plan: ResizePlan) -> tuple[Kept, list[tuple[str, Tensor, DType]]]:
    """What is kept of *module*, and its new tensors with the types that they are rounded to."""
    up, down, inner = _factors(module, plan.source)
    left, core = torch.linalg.qr(up)
    right, other = torch.linalg.qr(down.T)
    u, values, vh = torch.linalg.svd(core @ other.T)
    energy = float(values.square().sum())
    rank = kept_rank(values, energy, plan.rule, plan.rule.most(kernel=module.kernel))
    found = Decomposed(values[:rank], left @ u[:, :rank], values[:rank, None] * (vh[:rank] @ right.T), energy)
    new_up, new_down = balanced(found)
    dtype = plan.type_of(module.tensors["down"])
    ones = (1,) * (len(module.tensors["up"].tensor.shape) - 2)
    made = [
        (module.tensors["up"].tensor.name, new_up.reshape(-1, rank, *ones), dtype),
        (module.tensors["down"].tensor.name, new_down.reshape(rank, *inner), dtype),
    ]
    if module.alpha is not None:
        made.append((module.alpha, torch.tensor(float(rank)), DType.F32))
    if module.bias is not None:
        bias = whole(module.bias, torch.float64) * module.scale
        made.append((module.bias.tensor.name, bias, plan.type_of(module.bias)))
    share = float(values[:rank].square().sum()) / energy if energy else 1.0
    return Kept(module.rank, rank, math.sqrt(energy), share), made


def _factors(module: ResizedModule, source: str) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The factors as matrices in F64, the scale in one of them, and the shape of what lies behind down's rank."""
    tensors = {role: whole(piece, torch.float64) for role, piece in module.tensors.items()}
    if not all(bool(each.isfinite().all()) for each in tensors.values()):
        raise MergeError(f"{source}: {module.name}: it has values that are not finite")
    up = tensors["up"].flatten(1) * module.scale
    down = tensors["down"]
    if "mid" in tensors:
        down = torch.einsum("mnkl,ni->mikl", tensors["mid"], down.flatten(1))
    if up.shape[1] != down.shape[0]:
        raise MergeError(f"{source}: {module.name}: its factors do not fit each other")
    return up, down.flatten(1), tuple(down.shape[1:])


def _read(plan: ResizePlan) -> ConversionPlan:
    pieces = [piece for module in plan.modules for piece in module.tensors.values()]
    pieces += [module.bias for module in plan.modules if module.bias is not None]
    planned = (PlannedTensor(p.tensor.name, p.tensor.dtype, p.tensor.shape, (p,), 0, 0) for p in pieces)
    return ConversionPlan(plan.source, (OutputFile("", b"", tuple(planned), {}),))


def _metadata(plan: ResizePlan, kept: Mapping[str, Kept], sha256: str) -> dict[str, str]:
    rule = plan.rule
    how = {
        "version": __version__,
        "source": os.path.basename(plan.source),
        "sha256": sha256,
        "rank": rule.rank,
        "conv_rank": rule.conv_rank,
        "dynamic": f"{rule.dynamic[0]}={rule.dynamic[1]:g}" if rule.dynamic is not None else None,
        "energy": round(in_total(kept), 6),
    }
    salvaged = {SALVAGED_KEY: "true"} if plan.salvaged else {}
    lineage = with_older(plan.metadata, RESIZE_KEY, json.dumps(how))
    return {**plan.metadata, **network_dim(rule, kept), **salvaged, **lineage}
