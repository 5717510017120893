"""Blending whole models: weighted sums, differences added, arcs between two.

A blend is planned (:func:`plan_blend`, without torch) and carried out (:func:`modelhub.blend.execute.execute`), by the
same writer as a merge: what changes is computed in blocks of rows and rounded once, all else of A is copied byte for
byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from modelhub.blend.base import TAKES, Blend, Blended, BlendPlan, BlendRecipe, MethodName
from modelhub.blend.plan import open_blend
from modelhub.blend.ratios import parsed_ratios, with_blocks
from modelhub.blend.recipe import BLEND_KEY, read_blend, written_blend
from modelhub.convert import judge
from modelhub.errors import MergeError
from modelhub.merge import Precision, Weights, check_torch
from modelhub.merge.digesting import Digesting, KnownDigests

if TYPE_CHECKING:
    from modelhub.scan import Policy

__all__ = [
    "BLEND_KEY",
    "TAKES",
    "Blend",
    "BlendPlan",
    "BlendRecipe",
    "Blended",
    "MethodName",
    "blend",
    "parsed_ratios",
    "plan_blend",
    "read_blend",
    "with_blocks",
    "written_blend",
]

Path = str | os.PathLike[str]
Ratios = Weights | float | str


@contextmanager
def plan_blend(
    models: Sequence[Path] | BlendRecipe,
    method: MethodName = "weighted",
    alpha: Ratios = 0.5,
    beta: Ratios = 0.0,
    *,
    precision: Precision | None = None,
    allow_unmatched: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
) -> Iterator[BlendPlan]:
    """A context manager: the plan of blending *models*, A, B and perhaps C, by *method*; it holds its files open.

    The models are checkpoints or diffusers folders of one architecture; or a recipe, which says the rest too. *alpha*
    and *beta* are numbers, or the text or the value of ratios by part (:mod:`modelhub.blend.ratios`). *allow_unmatched*
    keeps A's tensors where another model has none, *salvage* also takes files whose verdict is not SAFE.

    Raises :class:`IncompatibleArchitecture`, :class:`UnmatchedKeys` or :class:`MergeError`, and what opening, judging
    and reading the files raises.
    """
    recipe = _recipe(models, method, alpha, beta, precision)
    with ExitStack() as stack:
        yield open_blend(
            recipe,
            stack,
            judge=lambda container: judge(container, policy, salvage=salvage, done="blended"),
            allow_unmatched=allow_unmatched,
        )


def blend(
    models: Sequence[Path] | BlendRecipe,
    method: MethodName = "weighted",
    alpha: Ratios = 0.5,
    beta: Ratios = 0.0,
    *,
    target: Path,
    precision: Precision | None = None,
    allow_unmatched: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
    force: bool = False,
    verify_tensors: int = 0,
    device: str = "cpu",
    known: KnownDigests | None = None,
    progress: Callable[[int], None] | None = None,
) -> Blend:
    """Blend *models* and write *target*, a safetensors file, or a folder where A is one.

    *known* are digests of files that need not be computed where they are those of the models' files. The other
    parameters are those of :func:`plan_blend` and :func:`modelhub.blend.execute.execute`; so are the errors, and
    :class:`MissingExtra` without torch.
    """
    recipe = _recipe(models, method, alpha, beta, precision)
    check_torch()
    with (
        plan_blend(recipe, allow_unmatched=allow_unmatched, salvage=salvage, policy=policy) as plan,
        Digesting(known, plan.pending) as digests,
    ):
        from modelhub.blend.execute import execute

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


def _recipe(
    models: Sequence[Path] | BlendRecipe,
    method: MethodName,
    alpha: Ratios,
    beta: Ratios,
    precision: Precision | None,
) -> BlendRecipe:
    if isinstance(models, BlendRecipe):
        if precision is not None:
            raise MergeError("a recipe says how a blend is computed; nothing is added to it")
        return models
    if method not in TAKES:
        raise MergeError(f"{method!r:.60} is no method of blending", hint=f"one of {', '.join(TAKES)}")
    paths = tuple(os.fspath(each) for each in models)
    return BlendRecipe(method, paths, _ratios(alpha), _ratios(beta), precision or Precision())


def _ratios(given: Ratios) -> Weights:
    if isinstance(given, str):
        return parsed_ratios(given)
    return given if isinstance(given, Weights) else Weights(float(given))
