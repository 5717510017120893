"""A blend, planned or done: for people, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelhub.blend import Blend, BlendPlan
from modelhub.merge import Weights
from modelhub.report.merged import (
    meant,
    per_tensor_lines,
    told_dict,
    told_lines,
    unmatched_lines,
    unmatched_list,
    would_line,
)
from modelhub.report.plain import Line, Span, byte_size, counted, line, shortened

_NAMES = "ABC"


def plan_lines(plan: BlendPlan, target: str | None, verbosity: int = 0) -> Iterator[Line]:
    """What would be blended, tensor by tensor with ``-v``."""
    yield would_line("blend", target)
    yield from _models(plan)
    yield line(f"    {_tensors(plan)}, {byte_size(plan.size)}")
    if verbosity > 0:
        for address, change in sorted(plan.changes.items()):
            beta = f" and {change.beta:g}" if plan.recipe.beta != Weights(0.0) else ""
            yield line(Span(f"    {address.tensor}  ", "dim"), f"{change.alpha:g}{beta}")
    yield from unmatched_lines(plan.unmatched, verbosity, "blended")
    yield from _notes(plan)


def blend_lines(done: Blend, verbosity: int = 0) -> Iterator[Line]:
    """What was blended, and what that did to A's weights."""
    plan = done.plan
    yield line(Span("blended  ", "safe"), Span(done.conversion.target, "bold"))
    yield from _models(plan)
    same = len(done.told) - len(meant(done.told))
    like = f", {same:,} with the same" if same else ""
    yield line(
        f"    {_tensors(plan)}{like}; the others copied and compared, {byte_size(done.conversion.size)}, "
        f"{done.conversion.seconds:.1f} s"
    )
    yield from told_lines(done.told, done.checked)
    yield line(Span(f"    recipe  {done.recipe_path}", "dim"))
    yield from per_tensor_lines(done.told, verbosity)
    yield from unmatched_lines(plan.unmatched, verbosity, "blended")
    yield from _notes(plan)


def _models(plan: BlendPlan) -> Iterator[Line]:
    recipe = plan.recipe
    for name, path in zip(_NAMES, recipe.models, strict=False):
        yield line(f"    {name}  {path}")
    beta = f", beta {_ratios(recipe.beta)}" if recipe.beta != Weights(0.0) else ""
    yield line(f"    {recipe.method}, alpha {_ratios(recipe.alpha)}{beta}")


def _ratios(given: Weights) -> str:
    parts = len(given.components) + len(given.blocks) + len(given.tensors)
    return f"{given.overall:g}" + (f" ({counted(parts, 'part')} with its own)" if parts else "")


def _tensors(plan: BlendPlan) -> str:
    tensors = counted(len(plan.conversion.tensors), "tensor")
    return f"{tensors}, {len(plan.changes):,} of them blended"


def _notes(plan: BlendPlan) -> Iterator[Line]:
    for note in (*plan.notes, *plan.conversion.notes):
        yield line(f"    {shortened(note, 300)}")


def plan_dict(plan: BlendPlan, target: str | None) -> dict[str, Any]:
    """A plan as JSON values."""
    return {
        "target": target,
        "done": False,
        "method": plan.recipe.method,
        "models": [{"path": path} for path in plan.recipe.models],
        "size": plan.size,
        "tensor_count": len(plan.conversion.tensors),
        "changed_tensors": len(plan.changes),
        "changes": [
            {
                "file": address.file,
                "tensor": address.tensor,
                "alpha": change.alpha,
                "beta": change.beta,
                "columns": change.columns,
            }
            for address, change in plan.changes.items()
        ],
        "unmatched": unmatched_list(plan.unmatched),
        "notes": [*plan.notes, *plan.conversion.notes],
    }


def blend_dict(done: Blend) -> dict[str, Any]:
    """A blend as JSON values."""
    models = zip(done.recipe.models, done.recipe.digests, strict=True)
    return plan_dict(done.plan, done.conversion.target) | {
        "done": True,
        "seconds": done.conversion.seconds,
        "models": [{"path": path, "sha256": dict(digests)} for path, digests in models],
        "recipe": done.recipe_path,
        **told_dict(done.told, done.checked),
    }
