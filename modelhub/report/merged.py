"""A merge, planned or done: for people, and as JSON values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from modelhub.merge import Merge, MergePlan, Told, Unmatched
from modelhub.report.plain import Line, Span, byte_size, counted, line, shortened

SHOWN = 8
"""Modules or tensors listed without ``-v``."""

SWALLOWED = 0.25
"""The share of weights that rounding left as they were from which on a merge is warned of."""


def plan_lines(plan: MergePlan, target: str, verbosity: int = 0) -> Iterator[Line]:
    """What would be merged, module by module with ``-v``."""
    yield line(Span("would merge  ", "bold"), Span(target, "bold"), Span(f"  from {plan.base}", "dim"))
    yield from _adapters(plan)
    yield from _work(plan)
    if verbosity > 0:
        for address, changes in sorted(plan.changes.items()):
            for change in changes:
                rows = f" rows {change.rows[0]} to {change.rows[1]}" if change.rows[1] - change.rows[0] else ""
                kind = f"{change.module.algorithm} at {change.strength:g}"
                yield line(Span(f"    {address.tensor}{rows}  ", "dim"), f"{kind}  {change.module.name}")
    yield from _unmatched(plan, verbosity)
    yield from _notes(plan)


def merge_lines(done: Merge, verbosity: int = 0) -> Iterator[Line]:
    """What was merged, and what that did to the weights."""
    plan = done.plan
    conversion = done.conversion
    yield line(Span("merged  ", "safe"), Span(conversion.target, "bold"), Span(f"  from {plan.base}", "dim"))
    yield from _adapters(plan)
    tensors = counted(len(conversion.plan.tensors), "tensor")
    changed = counted(len(plan.changes), "of them changed", "of them changed")
    yield line(
        f"    {tensors}, {changed}, the others copied and compared, {byte_size(conversion.size)}, "
        f"{conversion.seconds:.1f} s"
    )
    total = in_total(done.told)
    if total.numel:
        share = total.unchanged / total.numel
        yield line(
            f"    the change is {_relative(total):.3%} of the weights' norm; "
            f"{share:.1%} of {total.numel:,} weights are what they were"
        )
        if share > SWALLOWED:
            yield line(
                Span("    the output's type swallows a part of the change: it is too small for it; ", "suspicious"),
                "--dtype fp16 or fp32, or --stochastic-rounding, keeps more",
            )
    for address, error in list(done.checked.items()):
        yield line(
            Span(f"    computed again in float64, at most {error:.3f} of a last place away: {address.tensor}", "dim")
        )
    yield line(Span(f"    recipe  {done.recipe_path}", "dim"))
    if verbosity > 0:
        for address, told in sorted(done.told.items()):
            told_share = told.unchanged / told.numel if told.numel else 0.0
            yield line(Span(f"    {_relative(told):8.3%}  {told_share:6.1%} as before  ", "dim"), address.tensor)
    yield from _unmatched(plan, verbosity)
    yield from _notes(plan)


def in_total(told: Mapping[Any, Told]) -> Told:
    """All tensors as if they were one."""
    values = list(told.values())
    return Told(
        math.sqrt(sum(each.weight**2 for each in values)),
        math.sqrt(sum(each.change**2 for each in values)),
        sum(each.numel for each in values),
        sum(each.unchanged for each in values),
    )


def _relative(told: Told) -> float:
    return told.change / told.weight if told.weight else 0.0


def _adapters(plan: MergePlan) -> Iterator[Line]:
    for each in plan.adapters:
        kinds = ", ".join(f"{count} {name}" for name, count in each.algorithms.items())
        made_for = f", for {each.architecture}" if each.architecture else ""
        weight = f" at {each.use.weights.overall:g}"
        yield line(f"    with {each.use.path}{weight}", Span(f"  {kinds}{made_for}", "dim"))


def _work(plan: MergePlan) -> Iterator[Line]:
    modules = sum(map(len, plan.changes.values()))
    tensors = counted(len(plan.conversion.tensors), "tensor")
    yield line(
        f"    {counted(modules, 'change')} of {counted(len(plan.changes), 'tensor')}; {tensors}, {byte_size(plan.size)}"
    )


def _unmatched(plan: MergePlan, verbosity: int) -> Iterator[Line]:
    shown = plan.unmatched if verbosity > 0 else plan.unmatched[:SHOWN]
    for each in shown:
        near = f"; nearest: {', '.join(each.nearest)}" if each.nearest else ""
        yield line("    ", Span("not merged  ", "suspicious"), f"{shortened(each.name, 120)}: {each.reason}{near}")
    if len(plan.unmatched) > len(shown):
        yield line(Span(f"    … and {len(plan.unmatched) - len(shown):,} more not merged (-v shows all)", "dim"))


def _notes(plan: MergePlan) -> Iterator[Line]:
    for note in (*plan.notes, *plan.conversion.notes):
        yield line(f"    {shortened(note, 300)}")


def plan_dict(plan: MergePlan, target: str) -> dict[str, Any]:
    """A plan as JSON values."""
    return {
        "base": plan.base,
        "target": target,
        "done": False,
        "size": plan.size,
        "tensor_count": len(plan.conversion.tensors),
        "changed_tensors": len(plan.changes),
        "adapters": [
            {
                "path": each.use.path,
                "sha256": each.sha256,
                "architecture": each.architecture,
                "weight": each.use.weights.overall,
                "algorithms": dict(each.algorithms),
                "modules": each.matched,
                "skipped": each.skipped,
            }
            for each in plan.adapters
        ],
        "changes": [
            {
                "file": address.file,
                "tensor": address.tensor,
                "adapter": change.adapter,
                "module": change.module.name,
                "algorithm": change.module.algorithm,
                "strength": change.strength,
                "rows": list(change.rows),
                "transposed": change.transposed,
            }
            for address, changes in plan.changes.items()
            for change in changes
        ],
        "unmatched": [_unmatched_dict(each) for each in plan.unmatched],
        "reasons": dict(Counter(each.reason for each in plan.unmatched)),
        "notes": [*plan.notes, *plan.conversion.notes],
    }


def _unmatched_dict(each: Unmatched) -> dict[str, Any]:
    return {"adapter": each.adapter, "name": each.name, "reason": each.reason, "nearest": list(each.nearest)}


def merge_dict(done: Merge) -> dict[str, Any]:
    """A merge as JSON values."""
    total = in_total(done.told)
    return plan_dict(done.plan, done.conversion.target) | {
        "done": True,
        "seconds": done.conversion.seconds,
        "base_sha256": dict(done.digests),
        "recipe": done.recipe_path,
        "relative_change": _relative(total),
        "unchanged_share": total.unchanged / total.numel if total.numel else None,
        "tensors": [
            {
                "file": address.file,
                "tensor": address.tensor,
                "weight_norm": told.weight,
                "change_norm": told.change,
                "weights": told.numel,
                "unchanged": told.unchanged,
            }
            for address, told in sorted(done.told.items())
        ],
        "verified": [
            {"file": address.file, "tensor": address.tensor, "last_places": error}
            for address, error in done.checked.items()
        ],
    }
