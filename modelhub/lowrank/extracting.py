"""Carrying a planned extraction out: as many modules' differences are in memory as are worked on."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from modelhub import __version__
from modelhub.convert import SALVAGED_KEY
from modelhub.convert.background import Background
from modelhub.convert.execute import check_target, check_unchanged
from modelhub.convert.integrity import check_sources
from modelhub.errors import MergeError
from modelhub.lowrank.base import TYPES, ExtractedModule, Extraction, ExtractPlan, Kept, in_total, network_dim
from modelhub.lowrank.decomposing import balanced, decompose
from modelhub.lowrank.differences import changes, difference
from modelhub.lowrank.spool import Spool
from modelhub.lowrank.working import worked
from modelhub.merge.compute import Buffers
from modelhub.merge.digesting import Digesting
from modelhub.tensors import DType

EXTRACT_KEY = "modelhub.extract"
"""Metadata key: how the LoRA was extracted, as JSON."""

_MOST_MEMORY = 512 << 20
"""Bytes that the differences that are worked on may take together."""


def execute(
    plan: ExtractPlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    digests: Digesting | None = None,
    progress: Callable[[int], None] | None = None,
) -> Extraction:
    """Write the LoRA that *plan* says to *target*; *progress* is told the bytes of *tuned* as they are done.

    Modules that did not change are left out. *digests* is what computes the digests of the models' files already.
    Raises :class:`MergeError` where the models are the same, or a difference is not finite or out of range, and what
    :func:`modelhub.convert.execute` raises.
    """
    path = os.fspath(target)
    read = plan.reading
    check_target(read, path, force=force, merging=True)
    kept: dict[str, Kept] = {}
    same = 0
    dtype = TYPES[plan.dtype]
    with (
        Background(lambda stopped: check_sources(read, stopped)) as checking,
        nullcontext(digests) if digests is not None else Digesting(files=plan.pending) as reading,
        Spool(path) as spool,
        closing(_extracted(plan)) as modules,
    ):
        for module, factors in modules:
            if factors is not None:
                kept[module.name] = factors.kept
                ones = (1,) * len(module.shape[2:])
                spool.add(f"{module.name}.lora_up.weight", factors.up.reshape(-1, factors.kept.rank, *ones), dtype)
                spool.add(f"{module.name}.lora_down.weight", factors.down.reshape(-1, *module.shape[1:]), dtype)
                spool.add(f"{module.name}.alpha", torch.tensor(float(factors.kept.rank)), DType.F32)
            else:
                same += 1
            if progress is not None:
                progress(sum(part.nbytes for part in module.parts))
        left = dict(changes(plan.others))
        vae = sum(1 for _ in changes(plan.vae))
        if not kept:
            others = f", but in {len(left) + vae:,} other tensors" if left or vae else ""
            raise MergeError(f"{plan.tuned}: it differs from {plan.base} in no module that a LoRA is made of{others}")
        checking.result()
        sha256 = {name: reading.of(source) for source, name in plan.pending}
        found = {
            model: {name: sha256[f"{model}/{name}"] for name in files if f"{model}/{name}" in sha256}
            for model, files in plan.files.items()
        }
        check_unchanged(read)
        conversion = spool.write({}, _metadata(plan, kept, found), force=force)
    return Extraction(plan, conversion, kept, same, left, vae, found)


class _Factors(NamedTuple):
    kept: Kept
    up: Tensor
    down: Tensor


def _extracted(plan: ExtractPlan) -> Generator[tuple[ExtractedModule, _Factors | None]]:
    """The modules in their order, and their factors, ``None`` of one that did not change."""
    here = threading.local()

    def extracted(module: ExtractedModule) -> _Factors | None:
        if not hasattr(here, "buffers"):
            here.buffers = Buffers()
        return _factors(module, plan, here.buffers)

    largest = max(math.prod(module.shape) for module in plan.modules) * torch.float32.itemsize
    return worked(plan.modules, extracted, most=_MOST_MEMORY // largest)


def _factors(module: ExtractedModule, plan: ExtractPlan, buffers: Buffers) -> _Factors | None:
    matrix = difference(module, plan.tuned, buffers)
    if matrix is None:
        return None
    found = decompose(matrix, plan.rule, plan.rule.most(kernel=module.kernel), exact=plan.exact)
    share = min(1.0, float(found.values.square().sum()) / found.energy)
    return _Factors(Kept(None, len(found.values), math.sqrt(found.energy), share), *balanced(found))


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
        "exact": plan.exact,
        "energy": round(in_total(kept), 6),
    }
    salvaged = {SALVAGED_KEY: "true"} if plan.salvaged else {}
    return {**plan.metadata, **network_dim(rule, kept), **salvaged, EXTRACT_KEY: json.dumps(how)}
