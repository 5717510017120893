"""A merge, planned or done: for people, and as JSON values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelhub.merge import Address, Merge, MergePlan, Told, Unmatched, Weights
from modelhub.merge.weights import named_weights
from modelhub.report.plain import Line, Span, byte_size, counted, line, shortened

SHOWN = 8
"""Modules or tensors listed without ``-v``."""

SWALLOWED = 0.25
"""The share of weights that rounding left as they were from which on a merge is warned of."""

_ROUNDING = 1e-7
"""A change that is so small a share of its weights is that of computing in F32."""


def would_line(verb: str, target: str | None, of: str = "") -> Line:
    """The first line of a plan: what would be done, where to if that is known, and *of* what."""
    where = (Span(target, "bold"), Span(f"  {of}" if of else "", "dim")) if target is not None else (Span(of, "dim"),)
    return line(Span(f"would {verb}  ", "bold"), *where)


def plan_lines(plan: MergePlan, target: str | None, verbosity: int = 0) -> Iterator[Line]:
    """What would be merged, module by module with ``-v``."""
    yield would_line("merge", target, f"from {plan.base}")
    yield from _adapters(plan)
    yield from _work(plan)
    if verbosity > 0:
        for address, changes in sorted(plan.changes.items()):
            for change in changes:
                rows = f" rows {change.rows[0]} to {change.rows[1]}" if change.rows[1] - change.rows[0] else ""
                kind = f"{change.module.algorithm} at {change.strength:g}"
                yield line(Span(f"    {address.tensor}{rows}  ", "dim"), f"{kind}  {change.module.name}")
    yield from unmatched_lines(plan.unmatched, verbosity)
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
    yield from told_lines(done.told, done.checked)
    yield line(Span(f"    recipe  {done.recipe_path}", "dim"))
    yield from per_tensor_lines(done.told, verbosity)
    yield from unmatched_lines(plan.unmatched, verbosity)
    yield from _notes(plan)


def told_lines(told: Mapping[Address, Told], checked: Mapping[Address, float]) -> Iterator[Line]:
    """What was done to the weights, in total, and what computing some of them again said."""
    total = in_total(meant(told))
    if total.numel:
        share = total.unchanged / total.numel
        yield line(
            f"    the change is {_relative(total):.3%} of the weights' norm; "
            f"{share:.1%} of {total.numel:,} weights are what they were"
        )
        if share > SWALLOWED and _relative(total) > _ROUNDING:
            yield line(
                Span("    the output's type swallows a part of the change: it is too small for it; ", "suspicious"),
                "--dtype fp32, or --stochastic-rounding, keeps more",
            )
    for address, error in checked.items():
        yield line(
            Span(f"    computed again in float64, at most {error:.3f} of a last place away: {address.tensor}", "dim")
        )


def per_tensor_lines(told: Mapping[Address, Told], verbosity: int) -> Iterator[Line]:
    """What was done to each tensor, with ``-v``."""
    if verbosity > 0:
        for address, each in sorted(told.items()):
            share = each.unchanged / each.numel if each.numel else 0.0
            yield line(Span(f"    {_relative(each):8.3%}  {share:6.1%} as before  ", "dim"), address.tensor)


def meant(told: Mapping[Address, Told]) -> Mapping[Address, Told]:
    """Those of the tensors that were to change at all, if any: rounding takes nothing from one that is blended with its
    like."""
    return {address: each for address, each in told.items() if each.change > _ROUNDING * each.weight} or told


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
        yield line(f"    with {each.use.path} at {_weights(each.use.weights)}", Span(f"  {kinds}{made_for}", "dim"))


def _weights(given: Weights) -> str:
    parts = ", ".join(f"{name}={value:g}" for name, value in named_weights(given).items())
    return f"{given.overall:g}" + (f" times {shortened(parts, 80)}" if parts else "")


def _work(plan: MergePlan) -> Iterator[Line]:
    modules = sum(map(len, plan.changes.values()))
    tensors = counted(len(plan.conversion.tensors), "tensor")
    yield line(
        f"    {counted(modules, 'change')} of {counted(len(plan.changes), 'tensor')}; {tensors}, {byte_size(plan.size)}"
    )


def unmatched_lines(unmatched: Sequence[Unmatched], verbosity: int, verb: str = "merged") -> Iterator[Line]:
    """What was left out, and why; all of it with ``-v``."""
    shown = unmatched if verbosity > 0 else unmatched[:SHOWN]
    for each in shown:
        near = f"; nearest: {', '.join(each.nearest)}" if each.nearest else ""
        yield line("    ", Span(f"not {verb}  ", "suspicious"), f"{shortened(each.name, 120)}: {each.reason}{near}")
    if len(unmatched) > len(shown):
        yield line(Span(f"    … and {len(unmatched) - len(shown):,} more not {verb} (-v shows all)", "dim"))


def _notes(plan: MergePlan) -> Iterator[Line]:
    for note in (*plan.notes, *plan.conversion.notes):
        yield line(f"    {shortened(note, 300)}")


def plan_dict(plan: MergePlan, target: str | None) -> dict[str, Any]:
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
        "unmatched": unmatched_list(plan.unmatched),
        "reasons": dict(Counter(each.reason for each in plan.unmatched)),
        "notes": [*plan.notes, *plan.conversion.notes],
    }


def unmatched_list(unmatched: Sequence[Unmatched]) -> list[dict[str, Any]]:
    """What was left out, as JSON values."""
    return [
        {"adapter": each.adapter, "name": each.name, "reason": each.reason, "nearest": list(each.nearest)}
        for each in unmatched
    ]


def merge_dict(done: Merge) -> dict[str, Any]:
    """A merge as JSON values."""
    return plan_dict(done.plan, done.conversion.target) | {
        "done": True,
        "seconds": done.conversion.seconds,
        "base_sha256": dict(done.digests),
        "recipe": done.recipe_path,
        **told_dict(done.told, done.checked),
    }


def told_dict(told: Mapping[Address, Told], checked: Mapping[Address, float]) -> dict[str, Any]:
    """What was done to the weights, as JSON values."""
    total = in_total(meant(told))
    return {
        "relative_change": _relative(total),
        "unchanged_share": total.unchanged / total.numel if total.numel else None,
        "tensors": [
            {
                "file": address.file,
                "tensor": address.tensor,
                "weight_norm": each.weight,
                "change_norm": each.change,
                "weights": each.numel,
                "unchanged": each.unchanged,
            }
            for address, each in sorted(told.items())
        ],
        "verified": [
            {"file": address.file, "tensor": address.tensor, "last_places": error} for address, error in checked.items()
        ],
    }
