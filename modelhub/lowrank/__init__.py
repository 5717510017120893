"""LoRAs made of the difference of two models (extracting), and LoRAs of a smaller rank (resizing).

Both are planned without torch (:func:`plan_extract`, :func:`plan_resize`) and carried out, one module at a time, by
:mod:`modelhub.lowrank.extracting` and :mod:`modelhub.lowrank.resizing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from modelhub.container import open_path
from modelhub.convert import judge
from modelhub.errors import SettingsError
from modelhub.lowrank.base import (
    Dynamic,
    Extraction,
    ExtractPlan,
    FactorType,
    Kept,
    RankRule,
    ResizePlan,
    Resizing,
    in_total,
)
from modelhub.lowrank.extract_plan import open_extract
from modelhub.lowrank.resize_plan import open_resize
from modelhub.merge import check_torch
from modelhub.merge.digesting import Digesting, KnownDigests
from modelhub.merge.peft import adapter_file

if TYPE_CHECKING:
    from modelhub.scan import Policy

__all__ = [
    "ExtractPlan",
    "Extraction",
    "Kept",
    "RankRule",
    "ResizePlan",
    "Resizing",
    "dynamic_rank",
    "extract",
    "in_total",
    "plan_extract",
    "plan_resize",
    "resize",
]

Path = str | os.PathLike[str]

_RANGES: dict[Dynamic, str] = {"sv_ratio": "at least 1", "sv_fro": "from 0 to 1", "sv_cumulative": "from 0 to 1"}


def dynamic_rank(text: str) -> tuple[Dynamic, float]:
    """``sv_fro=0.9`` and the like. Raises :class:`SettingsError`."""
    word, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    known = word in _RANGES and (number >= 1 if word == "sv_ratio" else 0 < number <= 1)
    if not known or number == float("inf"):
        hint = "; ".join(f"{name}=N, {where}" for name, where in _RANGES.items())
        raise SettingsError(f"{text!r:.60} is no rule for ranks", hint=hint)
    return cast("Dynamic", word), number


@contextmanager
def plan_extract(
    tuned: Path,
    base: Path,
    rule: RankRule | None = None,
    *,
    dtype: FactorType = "fp16",
    exact: bool = False,
    allow_unmatched: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
) -> Iterator[ExtractPlan]:
    """A context manager: the plan of a LoRA that makes *tuned* of *base*, two checkpoints or diffusers folders.

    *rule* says the ranks, *dtype* the factors' type. With *exact* all singular values of each module are computed,
    which is slow (:func:`modelhub.lowrank.krylov.leading` says how near they are without). *allow_unmatched* leaves out
    modules that *tuned* lacks or has in another shape, *salvage* also takes files whose verdict is not SAFE. Raises
    :class:`IncompatibleArchitecture`, :class:`UnmatchedKeys` or :class:`MergeError`, and what opening, judging and
    reading the files raises.
    """
    with ExitStack() as stack:
        yield open_extract(
            os.fspath(tuned),
            os.fspath(base),
            stack,
            judge=lambda container: judge(container, policy, salvage=salvage, done="extracted from"),
            rule=_checked(rule),
            dtype=dtype,
            exact=exact,
            allow_unmatched=allow_unmatched,
        )


def extract(
    tuned: Path,
    base: Path,
    rule: RankRule | None = None,
    *,
    target: Path,
    dtype: FactorType = "fp16",
    exact: bool = False,
    allow_unmatched: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
    force: bool = False,
    known: KnownDigests | None = None,
    progress: Callable[[int], None] | None = None,
) -> Extraction:
    """Write the LoRA that makes *tuned* of *base* to *target*, in sd-scripts' names.

    *known* are digests of files that need not be computed where they are those of the models' files. The other
    parameters are those of :func:`plan_extract` and :func:`modelhub.lowrank.extracting.execute`; so are the errors, and
    :class:`MissingExtra` without torch.
    """
    check_torch()
    with (
        plan_extract(
            tuned,
            base,
            rule,
            dtype=dtype,
            exact=exact,
            allow_unmatched=allow_unmatched,
            salvage=salvage,
            policy=policy,
        ) as plan,
        Digesting(known, plan.pending) as digests,
    ):
        from modelhub.lowrank.extracting import execute

        return execute(plan, target, force=force, digests=digests, progress=progress)


@contextmanager
def plan_resize(
    lora: Path,
    rule: RankRule | None = None,
    *,
    dtype: FactorType | None = None,
    salvage: bool = False,
    policy: Policy | None = None,
) -> Iterator[ResizePlan]:
    """A context manager: the plan of giving the modules of *lora* the ranks that *rule* says: a file, or a folder of
    PEFT's.

    *dtype* is the factors' type, their own by default. Raises :class:`MergeError` for what has no module to resize, and
    what opening, judging and reading the file raises.
    """
    with open_path(adapter_file(os.fspath(lora))) as container:
        safe = judge(container, policy, salvage=salvage, done="resized")
        yield open_resize(container, safe=safe, rule=_checked(rule), dtype=dtype)


def resize(
    lora: Path,
    rule: RankRule | None = None,
    *,
    target: Path,
    dtype: FactorType | None = None,
    salvage: bool = False,
    policy: Policy | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Resizing:
    """Write *lora* with the ranks that *rule* says to *target*, as strong as it was.

    The other parameters are those of :func:`plan_resize` and :func:`modelhub.lowrank.resizing.execute`; so are the
    errors, and :class:`MissingExtra` without torch.
    """
    check_torch()
    with plan_resize(lora, rule, dtype=dtype, salvage=salvage, policy=policy) as plan:
        from modelhub.lowrank.resizing import execute

        return execute(plan, target, force=force, progress=progress)


def _checked(rule: RankRule | None) -> RankRule:
    given = rule or RankRule()
    if given.rank < 1 or (given.conv_rank is not None and given.conv_rank < 1):
        raise SettingsError(f"a rank is at least 1, not {min(given.rank, given.conv_rank or given.rank)}")
    return given
