"""Carrying a planned blend out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from modelhub.blend.base import Blend, BlendPlan
from modelhub.blend.recipe import written_blend
from modelhub.convert import PlannedTensor
from modelhub.errors import MergeError
from modelhub.merge import Address
from modelhub.merge.computing import Computations
from modelhub.merge.digesting import Digesting
from modelhub.merge.recipe import recipe_path
from modelhub.merge.writing import Computing, write_recipe

if TYPE_CHECKING:
    import torch

    from modelhub.blend.blending import Blending
    from modelhub.merge.compute import Buffers


def execute(
    plan: BlendPlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    verify_tensors: int = 0,
    expected: Sequence[Mapping[str, str]] = (),
    recipe: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    digests: Digesting | None = None,
    progress: Callable[[int], None] | None = None,
) -> Blend:
    """Write what *plan* says to *target*, and the recipe beside it; as :func:`modelhub.merge.execute.execute`.

    *expected* are the SHA-256 that the files of each model must have, by name.
    """
    path = os.fspath(target)
    if device != "cpu":
        from modelhub.merge.devices import device_named

        device_named(device)
    method, precision = plan.recipe.method, plan.recipe.precision

    def maker_of(
        address: Address, planned: PlannedTensor, dtype: torch.dtype, buffers: Buffers, on: torch.device
    ) -> Blending:
        from modelhub.blend.blending import Blending

        (piece,) = planned.pieces
        return Blending(piece, plan.changes[address], method, dtype=dtype, buffers=buffers, device=on)

    def again(written: str) -> Mapping[Address, float]:
        from modelhub.merge.recheck import recheck

        return recheck(
            plan.conversion,
            written,
            plan.changes,
            count=verify_tensors,
            maker_of=maker_of,
            precision=precision,
            rescaled=plan.rescaled,
        )

    computations = Computations(
        plan.conversion, plan.changes, plan.rescaled, maker_of=maker_of, precision=precision, device=device
    )
    with nullcontext(digests) if digests is not None else Digesting(files=plan.pending) as reading:
        writer = Computing(
            computations,
            digesting=reading,
            pending=plan.pending,
            expected=_expected(plan, expected),
            others=[piece for change in plan.changes.values() for piece in change.others],
            recheck=again if verify_tensors else None,
            workers=threads,
            recipe=recipe,
        )
        done = writer.execute(plan.conversion, path, force=force, progress=progress)
    found = tuple({name: writer.digests[mark] for name, mark in marks.items()} for marks in plan.recipe.digests)
    blended = replace(plan.recipe, digests=found)
    text = written_blend(blended, os.path.dirname(os.path.abspath(path)))
    blend = Blend(plan, done, writer.told, blended, recipe_path(path), writer.checked)
    write_recipe(text, path, of=blend, force=force, carried_out=recipe)
    return blend


def _expected(plan: BlendPlan, given: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """*given* by what stands for each digest in the plan."""
    found: dict[str, str] = {}
    for path, marks, digests in zip(plan.recipe.models, plan.recipe.digests, given, strict=False):
        for name, sha256 in digests.items():
            if name not in marks:
                raise MergeError(f"{path}: it is not the model of the recipe, which has a file {name}")
            found[marks[name]] = sha256
    return found
