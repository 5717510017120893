"""Merging adapters (LoRAs and their relatives) into the weights of a model.

A merge is planned (:func:`plan_merge`, without torch) and carried out (:func:`modelhub.merge.execute.execute`, which
computes with torch). Tensors that no adapter changes are copied byte for byte; of the others one block of rows is in
memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from modelhub.convert import judge
from modelhub.errors import MergeError, MissingExtra
from modelhub.merge.base import (
    AdapterUse,
    Address,
    Change,
    Merge,
    MergePlan,
    Precision,
    Recipe,
    RecipeAdapter,
    Told,
    Unmatched,
    Weights,
)
from modelhub.merge.digesting import Digesting, KnownDigests
from modelhub.merge.peft import adapter_file
from modelhub.merge.plan import open_merge
from modelhub.merge.recipe import RECIPE_KEY, read_recipe, recipe_path, written_recipe
from modelhub.merge.weights import adapter_use

if TYPE_CHECKING:
    from modelhub.scan import Policy

__all__ = [
    "RECIPE_KEY",
    "AdapterUse",
    "Address",
    "Change",
    "KnownDigests",
    "Merge",
    "MergePlan",
    "Precision",
    "Recipe",
    "RecipeAdapter",
    "Told",
    "Unmatched",
    "Weights",
    "adapter_file",
    "adapter_use",
    "check_torch",
    "merge",
    "plan_merge",
    "read_recipe",
    "recipe_path",
    "written_recipe",
]

Path = str | os.PathLike[str]
Adapters = Sequence[AdapterUse | str]


@contextmanager
def plan_merge(
    base: Path | Recipe,
    adapters: Adapters = (),
    *,
    precision: Precision | None = None,
    allow_unmatched: bool = False,
    again: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
) -> Iterator[MergePlan]:
    """A context manager: the plan of merging *adapters*, in their order, into *base*; it holds its files open.

    *base* is a checkpoint or a diffusers folder, or a recipe of which *adapters* and *precision* are a part. An adapter
    is an :class:`AdapterUse` or the text of one, ``"style.safetensors:0.8"``. *allow_unmatched* leaves out what has no
    place in the base, *again* merges an adapter that the base was merged with before, *salvage* also takes files whose
    verdict is not SAFE.

    Raises :class:`UnmatchedKeys`, :class:`IncompatibleArchitecture` or :class:`MergeError`, and what opening, judging
    and reading the files raises.
    """
    recipe = _recipe(base, adapters, precision)
    judging = partial(judge, policy=policy, salvage=salvage, done="merged")
    with ExitStack() as stack, Digesting() as digests:
        yield open_merge(recipe, stack, judge=judging, digesting=digests, allow_unmatched=allow_unmatched, again=again)


def merge(
    base: Path | Recipe,
    adapters: Adapters = (),
    *,
    target: Path,
    precision: Precision | None = None,
    allow_unmatched: bool = False,
    again: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
    force: bool = False,
    verify_tensors: int = 0,
    device: str = "cpu",
    known: KnownDigests | None = None,
    progress: Callable[[int], None] | None = None,
) -> Merge:
    """Merge *adapters* into *base* and write *target*, a safetensors file, or a folder where *base* is one.

    *known* are digests of files that need not be computed. The other
    parameters are those of :func:`plan_merge` and :func:`modelhub.merge.execute.execute`; so are the errors, and
    :class:`MissingExtra` without torch.
    """
    recipe = _recipe(base, adapters, precision)
    check_torch()
    judging = partial(judge, policy=policy, salvage=salvage, done="merged")
    from modelhub.convert.background import Background
    from modelhub.merge.execute import execute
    from modelhub.merge.writing import load

    with ExitStack() as stack, Digesting(known) as digests:
        plan = open_merge(
            recipe,
            stack,
            judge=judging,
            digesting=digests,
            ahead=True,
            allow_unmatched=allow_unmatched,
            again=again,
            matched=lambda: stack.enter_context(Background(load)),
        )
        return execute(
            plan,
            target,
            force=force,
            verify_tensors=verify_tensors,
            expected=recipe.digests,
            recipe=recipe.file,
            device=device,
            digests=digests,
            progress=progress,
        )


def check_torch() -> None:
    """Raise :class:`MissingExtra` where torch is not installed."""
    if find_spec("torch") is None:
        raise MissingExtra("torch, which merging computes with,", "torch")


def _recipe(base: Path | Recipe, adapters: Adapters, precision: Precision | None) -> Recipe:
    if isinstance(base, Recipe):
        if adapters or precision is not None:
            raise MergeError("a recipe says which adapters are merged and how; others are not added")
        return base
    uses = [adapter_use(each) if isinstance(each, str) else each for each in adapters]
    if not uses:
        raise MergeError(f"{os.fspath(base)}: no adapter is named", hint="name one: --lora FILE:0.8")
    return Recipe(os.fspath(base), tuple(map(RecipeAdapter, uses)), precision or Precision())
