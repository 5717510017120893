"""What a fetch would bring, and what became of it: as plain JSON objects, and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from modelhub.report.json import scan_dict
from modelhub.report.plain import Line, Span, byte_size, counted, line
from modelhub.report.scanned import scan_lines, verdict_span
from modelhub.scan.findings import ScanReport, Verdict
from modelhub.source import shown_address

_SHOWN = 12


class Planned(Protocol):
    """A unit of a plan; see :class:`modelhub.fetching.Unit`."""

    @property
    def address(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def files(self) -> tuple[Any, ...]: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def reports(self) -> tuple[ScanReport, ...]: ...


class Plan(Protocol):
    """See :class:`modelhub.fetching.FetchPlan`."""

    @property
    def address(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def claims(self) -> Mapping[str, object]: ...
    @property
    def left_out(self) -> tuple[tuple[str, str], ...]: ...


def plan_lines(plan: Plan, verbosity: int = 0) -> Iterator[Line]:
    """The plan as a whole: size, room, what the source says of itself, what is left out."""
    yield line(Span(plan.address, "bold"))
    yield line(f"  {byte_size(plan.size)} to download, {byte_size(plan.free)} free")
    for name, value in plan.claims.items():
        if name != "tags" or verbosity > 0:
            yield line(Span(f"  {name.replace('_', ' ')}, as its page says: {value}", "dim"))
    shown = plan.left_out if verbosity > 0 else plan.left_out[:_SHOWN]
    for path, reason in shown:
        yield line(Span(f"  left out: {path}: {reason}", "dim"))
    if len(plan.left_out) > len(shown):
        yield line(Span(f"  … and {counted(len(plan.left_out) - len(shown), 'more file')} left out (-v)", "dim"))


def unit_lines(unit: Planned, action: str, target: str | None, error: str | None) -> Iterator[Line]:
    """What becomes of one unit, with the findings where it is not safe."""
    where = f" -> {target}" if target is not None else ""
    size = f"  {byte_size(unit.size)} in {counted(len(unit.files), 'file')}"
    yield line(
        verdict_span(unit.verdict.label, 10), "  ", action, "  ", Span(shown_address(unit.address), "bold"), where, size
    )
    if error is not None:
        yield line("    ", Span(error, "unsafe"))
    if unit.verdict > Verdict.SAFE:
        for report in unit.reports:
            if report.verdict > Verdict.SAFE:
                yield from scan_lines(report)


def unit_dict(unit: Planned, action: str, target: str | None, error: str | None) -> dict[str, Any]:
    """One unit; ``reports`` are those that its verdict is of."""
    return {
        "address": shown_address(unit.address),
        "action": action,
        "target": target,
        "verdict": unit.verdict.label,
        "size": unit.size,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in unit.files],
        "reports": [scan_dict(report) for report in unit.reports],
        "error": error,
    }
