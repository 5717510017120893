"""Extracted and resized LoRAs, planned or done: for people, and as JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelhub.lowrank import Extraction, ExtractPlan, Kept, RankRule, ResizePlan, Resizing, in_total
from modelhub.merge import Address
from modelhub.report.merged import SHOWN, unmatched_lines, unmatched_list, would_line
from modelhub.report.plain import Line, Span, byte_size, counted, line, shortened

_LITTLE = 0.5
"""The share of the energy below which an extraction says that it leaves most of it out."""


def extract_plan_lines(plan: ExtractPlan, target: str | None, verbosity: int = 0) -> Iterator[Line]:
    """What would be extracted, module by module with ``-v``."""
    yield would_line("extract", target, f"{plan.tuned} less {plan.base}")
    yield line(f"    {counted(len(plan.modules), 'module')}, {_rule(plan.rule)}, {plan.dtype}")
    if verbosity > 0:
        for module in plan.modules:
            yield line(Span(f"    {module.name}  ", "dim"), str(list(module.shape)))
    yield from unmatched_lines(plan.unmatched, verbosity, "extracted")
    yield from _notes(plan.notes)


def extraction_lines(done: Extraction, verbosity: int = 0) -> Iterator[Line]:
    """What was extracted, how much of the change that is, and what is in no module."""
    plan, conversion = done.plan, done.conversion
    models = f"  {plan.tuned} less {plan.base}"
    yield line(Span("extracted  ", "safe"), Span(conversion.target, "bold"), Span(models, "dim"))
    unchanged = f", {done.same:,} did not change" if done.same else ""
    size = byte_size(conversion.size)
    yield line(f"    {counted(len(done.kept), 'module')}, {_rule(plan.rule)}, {plan.dtype}{unchanged}, {size}")
    yield from _kept(done.kept, verbosity)
    if in_total(done.kept) < _LITTLE:
        yield line(
            Span("    most of the change is left out: ", "suspicious"), "it is of no low rank; a higher --rank has more"
        )
    if done.left:
        left = sorted(done.left, key=lambda address: -done.left[address][0])
        share = sum(change**2 for change, _ in done.left.values())
        share /= share + sum(each.norm**2 for each in done.kept.values())
        yield line(
            Span("    in no module  ", "suspicious"),
            f"{counted(len(left), 'tensor')} changed that a LoRA does not have, {share:.2%} of the change's energy",
        )
        for address in left if verbosity > 0 else left[:SHOWN]:
            change, weight = done.left[address]
            yield line(Span(f"    {change / weight if weight else 1.0:8.3%}  ", "dim"), shortened(_place(address), 120))
    if done.vae:
        told = f"{counted(done.vae, 'tensor')} of it changed, of which a LoRA has nothing"
        yield line(Span("    another VAE  ", "suspicious"), told)
    yield from unmatched_lines(plan.unmatched, verbosity, "extracted")
    yield from _notes(plan.notes)


def resize_plan_lines(plan: ResizePlan, target: str | None, verbosity: int = 0) -> Iterator[Line]:
    """What would be resized, module by module with ``-v``."""
    yield would_line("resize", target, f"from {plan.source}")
    before = _ranks(module.rank for module in plan.modules)
    yield line(f"    {counted(len(plan.modules), 'module')} of rank {before}, to {_rule(plan.rule)}")
    if verbosity > 0:
        for module in plan.modules:
            yield line(Span(f"    {module.name}  ", "dim"), str(module.rank))
    yield from _notes(plan.notes)


def resizing_lines(done: Resizing, verbosity: int = 0) -> Iterator[Line]:
    """What was resized, and how much of it is left."""
    plan, conversion = done.plan, done.conversion
    yield line(Span("resized  ", "safe"), Span(conversion.target, "bold"), Span(f"  from {plan.source}", "dim"))
    before = _ranks(each.before or 0 for each in done.kept.values())
    size = byte_size(conversion.size)
    yield line(f"    {counted(len(done.kept), 'module')} of rank {before}, to {_rule(plan.rule)}, {size}")
    yield from _kept(done.kept, verbosity)
    yield from _notes(plan.notes)


def _kept(kept: Mapping[str, Kept], verbosity: int) -> Iterator[Line]:
    least = min(kept, key=lambda name: kept[name].energy)
    total, lowest = f"{in_total(kept):.2%}", f"{kept[least].energy:.2%}"
    told = f"    rank {_ranks(each.rank for each in kept.values())}; {total} of the energy kept"
    if lowest == total:
        yield line(told)
    else:
        yield line(f"{told}, least {lowest}: ", Span(shortened(least, 120), "dim"))
    if verbosity > 0:
        for name, each in kept.items():
            yield line(Span(f"    {each.energy:8.3%}  rank {each.rank:4}  ", "dim"), name)


def _place(address: Address) -> str:
    return f"{address.file}: {address.tensor}" if address.file else address.tensor


def _ranks(ranks: Iterable[int]) -> str:
    counts = Counter(ranks)
    return str(next(iter(counts))) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _rule(rule: RankRule) -> str:
    most = f"rank {rule.rank}" + (f", convolutions {rule.conv_rank}" if rule.conv_rank is not None else "")
    return most if rule.dynamic is None else f"{rule.dynamic[0]} {rule.dynamic[1]:g}, at most {most}"


def _notes(notes: tuple[str, ...]) -> Iterator[Line]:
    for note in notes:
        yield line(f"    {shortened(note, 300)}")


def extract_plan_dict(plan: ExtractPlan, target: str | None) -> dict[str, Any]:
    """A plan of extracting as JSON values."""
    return {
        "target": target,
        "done": False,
        "tuned": plan.tuned,
        "base": plan.base,
        **rule_dict(plan.rule),
        "dtype": plan.dtype,
        "exact": plan.exact,
        "modules": [{"name": module.name, "shape": list(module.shape)} for module in plan.modules],
        "unmatched": unmatched_list(plan.unmatched),
        "notes": list(plan.notes),
    }


def extraction_dict(done: Extraction) -> dict[str, Any]:
    """An extraction as JSON values."""
    return extract_plan_dict(done.plan, done.conversion.target) | {
        "done": True,
        "size": done.conversion.size,
        "energy": in_total(done.kept),
        "modules": _kept_list(done.kept),
        "unchanged_modules": done.same,
        "left": [
            {"file": address.file, "tensor": address.tensor, "change_norm": change, "weight_norm": weight}
            for address, (change, weight) in sorted(done.left.items())
        ],
        "vae_tensors": done.vae,
        "sha256": {model: dict(files) for model, files in done.digests.items()},
    }


def resize_plan_dict(plan: ResizePlan, target: str | None) -> dict[str, Any]:
    """A plan of resizing as JSON values."""
    return {
        "target": target,
        "done": False,
        "source": plan.source,
        **rule_dict(plan.rule),
        "dtype": plan.dtype,
        "modules": [{"name": module.name, "before": module.rank} for module in plan.modules],
        "copied": sorted(plan.copied),
        "other_algorithms": dict(plan.algorithms),
        "notes": list(plan.notes),
    }


def resizing_dict(done: Resizing) -> dict[str, Any]:
    """A resizing as JSON values."""
    return resize_plan_dict(done.plan, done.conversion.target) | {
        "done": True,
        "size": done.conversion.size,
        "energy": in_total(done.kept),
        "modules": _kept_list(done.kept),
        "sha256": done.sha256,
    }


def _kept_list(kept: Mapping[str, Kept]) -> list[dict[str, Any]]:
    return [
        {"name": name, "before": each.before, "rank": each.rank, "norm": each.norm, "energy": each.energy}
        for name, each in kept.items()
    ]


def rule_dict(rule: RankRule) -> dict[str, Any]:
    """A rule as JSON values."""
    dynamic = None if rule.dynamic is None else f"{rule.dynamic[0]}={rule.dynamic[1]:g}"
    return {"rank": rule.rank, "conv_rank": rule.conv_rank, "dynamic": dynamic}
