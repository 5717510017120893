"""A conversion, planned or done, for people."""

from __future__ import annotations

from collections.abc import Iterator

from modelhub.convert import Conversion, ConversionPlan
from modelhub.report.plain import Line, Span, byte_size, counted, line, shortened

SHOWN_LEFTOVERS = 8
"""Leftovers printed without ``-v``."""


def conversion_lines(conversion: Conversion, verbosity: int = 0) -> Iterator[Line]:
    """What was written, and what of the source was not kept."""
    yield line(
        Span("converted  ", "safe"), Span(conversion.target, "bold"), Span(f"  from {conversion.plan.source}", "dim")
    )
    tensors = counted(len(conversion.plan.tensors), "tensor")
    yield line(
        f"    {tensors}, {byte_size(conversion.size)}, every byte compared with the source, {conversion.seconds:.1f} s"
    )
    yield from _losses(conversion.plan, verbosity)


def plan_lines(plan: ConversionPlan, target: str, verbosity: int = 0) -> Iterator[Line]:
    """What would be written, and what of the source would not be kept."""
    yield line(Span("would convert  ", "bold"), Span(target, "bold"), Span(f"  from {plan.source}", "dim"))
    yield line(f"    {counted(len(plan.tensors), 'tensor')}, {byte_size(plan.size)}")
    yield from _losses(plan, verbosity)


def _losses(plan: ConversionPlan, verbosity: int) -> Iterator[Line]:
    if plan.duplicated:
        groups = counted(len(plan.duplicated), "group of names shares its bytes", "groups of names share their bytes")
        yield line(f"    {groups} in the source and got copies: {byte_size(plan.duplicated_bytes)} more")
    for note in plan.notes:
        yield line(f"    {shortened(note, 300)}")
    if verbosity > 0:
        for key, value in plan.outputs[0].metadata.items():
            yield line(Span(f"    metadata  {shortened(key, 60)} = {shortened(value, 200)}", "dim"))
    limit = len(plan.leftovers) if verbosity > 0 else SHOWN_LEFTOVERS
    for item in plan.leftovers[:limit]:
        yield line("    ", Span("not a tensor, left out  ", "dim"), f"{item.path}: {shortened(item.description, 100)}")
    if len(plan.leftovers) > limit:
        yield line(Span(f"    … and {len(plan.leftovers) - limit:,} more left out (-v shows all)", "dim"))
