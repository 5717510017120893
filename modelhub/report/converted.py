"""A conversion, planned or done, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from modelhub.convert import Conversion, ConversionPlan, Integrity, inside
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
    yield line(Span(f"    {integrity_sentence(conversion.sources)}", "dim"))
    for each in conversion.sources:
        if each.digest is not None:
            yield line(Span(f"    {each.digest}  {each.source.name}", "dim"))
    for made in conversion.digests:
        yield line(Span(f"    {made.whole}  {inside(conversion.target, made.path)}", "dim"))
        if made.content is not None:
            yield line(Span(f"    {made.content}  content", "dim"))
    yield from _files(conversion.plan)
    yield from _losses(conversion.plan, verbosity)


def integrity_sentence(sources: Sequence[Integrity]) -> str:
    """What the sources' checksums said of the bytes that were copied."""
    matched = sum(each.matched for each in sources)
    bare = sum(each.unverifiable for each in sources)
    if bare and not matched:
        return "integrity unverifiable: the source has no checksums"
    said = f"{counted(matched, 'checksum')} of the source, all matching"
    if bare:
        said += f"; {bare:,} storages have none"
    unread = sum(each.unread for each in sources)
    if unread:
        said += f"; of what is left out, {counted(unread, 'storage')} not read"
    damaged = [name for each in sources for name in each.damaged]
    if damaged:
        said += f"; damaged, but left out: {shortened(', '.join(damaged), 200)}"
    return said


def plan_lines(plan: ConversionPlan, target: str, verbosity: int = 0) -> Iterator[Line]:
    """What would be written, and what of the source would not be kept."""
    yield line(Span("would convert  ", "bold"), Span(target, "bold"), Span(f"  from {plan.source}", "dim"))
    yield line(f"    {counted(len(plan.tensors), 'tensor')}, {byte_size(plan.size)}")
    yield from _files(plan)
    yield from _losses(plan, verbosity)


def _files(plan: ConversionPlan) -> Iterator[Line]:
    if plan.is_folder:
        for output in plan.outputs:
            tensors = counted(len(output.tensors), "tensor")
            yield line(f"    {output.path}", Span(f"  {tensors}, {byte_size(output.size)}", "dim"))
        for plain in plan.plain:
            yield line(f"    {plain.path}", Span(f"  {byte_size(plain.source.size)}", "dim"))


def _losses(plan: ConversionPlan, verbosity: int) -> Iterator[Line]:
    for note in plan.notes:
        yield line(f"    {shortened(note, 300)}")
    if plan.duplicated:
        groups = counted(len(plan.duplicated), "group of names shares its bytes", "groups of names share their bytes")
        yield line(f"    {groups} in the source and got copies: {byte_size(plan.duplicated_bytes)} more")
    if verbosity > 0:
        for key, value in plan.outputs[0].metadata.items():
            yield line(Span(f"    metadata  {shortened(key, 60)} = {shortened(value, 200)}", "dim"))
        for item in plan.leftovers:
            yield _left_out(item.path, item.description)
        return
    reasons = Counter(item.description for item in plan.leftovers)
    told: set[str] = set()
    shown = 0
    for item in plan.leftovers:
        if shown == SHOWN_LEFTOVERS:
            break
        if item.description in told:
            continue
        told.add(item.description)
        shown += 1
        alike = reasons[item.description] - 1
        yield _left_out(item.path if not alike else f"{item.path} and {alike:,} more", item.description)
    more = sum(count for description, count in reasons.items() if description not in told)
    if more:
        yield line(Span(f"    … and {more:,} more left out (-v shows all)", "dim"))


def _left_out(path: str, description: str) -> Line:
    return line("    ", Span("left out  ", "dim"), f"{shortened(path, 120)}: {shortened(description, 100)}")
