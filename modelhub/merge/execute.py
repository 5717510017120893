"""Carrying a planned merge out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from modelhub.convert import Piece, PlannedTensor
from modelhub.errors import MergeError
from modelhub.merge.base import Address, Merge, MergePlan
from modelhub.merge.computing import Computations
from modelhub.merge.digesting import Digesting
from modelhub.merge.recipe import recipe_path, written_recipe
from modelhub.merge.writing import Computing, write_recipe

if TYPE_CHECKING:
    import torch

    from modelhub.merge.applying import Applying
    from modelhub.merge.compute import Buffers


def execute(
    plan: MergePlan,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    verify_tensors: int = 0,
    expected: Mapping[str, str] | None = None,
    recipe: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    digests: Digesting | None = None,
    progress: Callable[[int], None] | None = None,
) -> Merge:
    """Write what *plan* says to *target*, and the recipe beside it.

    All that :func:`modelhub.convert.execute` promises of its target holds here. Tensors that nothing changes are
    copied and compared byte for byte. *verify_tensors* of those that change are computed once more, in F64 and in other
    blocks, and compared with what was written. *expected* are SHA-256 that the base's files must have, by name;
    *recipe* is the file of the recipe that is carried out, which stays as it is where the output's would lie.
    *progress* is told bytes as they are written, ``plan.size`` altogether. *threads* is how many tensors are computed
    at a time, *device* what computes them, as torch names it (``cuda``). *digests* is what computes the digests of the
    base's files already.

    Raises :class:`MergeError` for a module that does not fit, values that are out of range or a device that is not
    there, what :func:`modelhub.convert.execute` raises, and :class:`RecipeNotWritten` after all is written but that.
    """
    path = os.fspath(target)
    if device != "cpu":
        from modelhub.merge.devices import device_named

        device_named(device)

    def maker_of(
        address: Address, planned: PlannedTensor, dtype: torch.dtype, buffers: Buffers, on: torch.device
    ) -> Applying:
        from modelhub.merge.applying import Applying

        return Applying(plan.changes[address], plan.adapters, dtype, on)

    def again(written: str) -> Mapping[Address, float]:
        from modelhub.merge.recheck import recheck

        return recheck(
            plan.conversion,
            written,
            plan.changes,
            count=verify_tensors,
            maker_of=maker_of,
            precision=plan.precision,
            rescaled=plan.rescaled,
        )

    marks = plan.recipe.digests
    for name in expected or {}:
        if name not in marks:
            raise MergeError(f"{plan.base}: it is not the base of the recipe, which has a file {name}")
    computations = Computations(
        plan.conversion,
        plan.changes,
        plan.rescaled,
        maker_of=maker_of,
        precision=plan.precision,
        device=device,
    )
    with nullcontext(digests) if digests is not None else Digesting(files=plan.pending) as reading:
        writer = Computing(
            computations,
            digesting=reading,
            pending=plan.pending,
            expected={marks[name]: sha256 for name, sha256 in (expected or {}).items()},
            others=_pieces(plan),
            recheck=again if verify_tensors else None,
            workers=threads,
            recipe=recipe,
        )
        done = writer.execute(plan.conversion, path, force=force, progress=progress)
    found = {name: writer.digests[mark] for name, mark in marks.items()}
    text = written_recipe(replace(plan.recipe, digests=found), os.path.dirname(os.path.abspath(path)))
    merge = Merge(plan, done, writer.told, found, recipe_path(path), writer.checked)
    write_recipe(text, path, of=merge, force=force, carried_out=recipe)
    return merge


def _pieces(plan: MergePlan) -> list[Piece]:
    """The adapters' tensors that are read."""
    modules = {id(change.module): change.module for changes in plan.changes.values() for change in changes}
    found = [piece for module in modules.values() for piece in module.tensors.values()]
    return found + [module.magnitudes for module in modules.values() if module.magnitudes is not None]
