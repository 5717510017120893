"""A scan report for people: one line per file, its findings below it, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from modelhub.report.plain import Line, Span, Style, byte_size, counted, line, shortened

if TYPE_CHECKING:
    from modelhub.scan.findings import Finding, ScanReport
    from modelhub.source import Traffic

SHOWN_FINDINGS = 8
"""Findings printed for one file without ``-v``."""

SEVERITY_STYLE: dict[str, Style] = {
    "info": "dim",
    "low": "unknown",
    "medium": "suspicious",
    "high": "unsafe",
    "critical": "unsafe",
}

_VERDICT_STYLE: dict[str, Style] = {
    "safe": "safe",
    "unknown": "unknown",
    "suspicious": "suspicious",
    "unsafe": "unsafe",
}

_SALVAGED = frozenset(
    "torch-zip torch-legacy torch-tar torchscript pickle numpy gguf zip diffusers-folder model-folder".split()
)
"""Kinds of container whose tensors 'convert --salvage' copies; it reads no archives."""

_NEXT_STEP = {
    "unknown": "not proven safe: get a complete copy, or a .safetensors version of the same model",
    "suspicious": "do not load it before you trust its origin; 'modelhub convert --salvage' copies its tensors alone",
    "unsafe": "do not load it; 'modelhub convert --salvage' copies its tensors alone, running nothing",
}

_LEAVE = {
    "suspicious": "do not load it before you trust its origin, nor what it was packed with",
    "unsafe": "do not load it or what it holds: delete it, and report it to where it comes from",
}


def verdict_span(label: str, width: int = 0) -> Span:
    """A verdict, given as its word (``"safe"``), in capitals and in its colour."""
    return Span(f"{label.upper():<{width}}", _VERDICT_STYLE.get(label, "dim"))


def scan_lines(report: ScanReport, verbosity: int = 0) -> Iterator[Line]:
    """The lines about one file. ``INFO`` findings and all but the first of many are left to ``-v``."""
    yield line(
        verdict_span(report.verdict.label, 10), "  ", Span(report.path, "bold"), Span(f"  {summary_of(report)}", "dim")
    )
    ordered = sorted(report.findings, key=lambda finding: -finding.severity)
    shown = [finding for finding in ordered if finding.severity > 0 or verbosity > 0]
    limit = len(shown) if verbosity > 0 else SHOWN_FINDINGS
    for finding in shown[:limit]:
        yield from _finding_lines(finding)
    if len(shown) > limit:
        yield line(Span(f"    … and {counted(len(shown) - limit, 'more finding')} (-v shows all)", "dim"))
    said = {finding.message for finding in shown}
    unread = [skipped for skipped in report.coverage.skipped if skipped.reason not in said]
    limit = len(unread) if verbosity > 0 else SHOWN_FINDINGS
    for skipped in unread[:limit]:
        where = f"{skipped.member}: " if skipped.member is not None else ""
        yield line("    ", Span("not examined  ", "unknown"), f"{where}{skipped.reason}")
    if len(unread) > limit:
        rest = counted(len(unread) - limit, "more part")
        yield line(Span(f"    … and {rest} not examined (-v shows all)", "dim"))
    if report.traffic is not None:
        yield traffic_line(report.traffic)
    step = _next_step(report)
    if step is not None:
        yield line(Span(f"    next: {step}", "dim"))


def traffic_line(traffic: Traffic) -> Line:
    """What came over the network."""
    read = f"{byte_size(traffic.received)} of {byte_size(traffic.size)}"
    return line(Span(f"    read over the network: {read}, in {counted(traffic.requests, 'request')}", "dim"))


def summary_of(report: ScanReport) -> str:
    """What the file is and why it has its verdict, in a few words."""
    what = report.container or "not opened"
    if report.verdict.label == "safe":
        return f"{what}; only tensors and plain data, all of it understood"
    if report.findings:
        worst = max(report.findings, key=lambda finding: finding.severity)
        return f"{what}; {shortened(worst.message, 100)}"
    reasons = [skipped.reason for skipped in report.coverage.skipped]
    return f"{what}; {shortened(reasons[0], 100) if reasons else 'not fully understood'}"


def _finding_lines(finding: Finding) -> Iterator[Line]:
    severity = finding.severity.label
    yield line(
        "    ",
        Span(f"{severity:<8}", SEVERITY_STYLE[severity]),
        "  ",
        finding.message,
        Span(f"  [{finding.rule}]", "dim"),
    )
    place = finding.location
    where = [place.member, None if place.offset is None else f"byte {place.offset}"]
    evidence = None if finding.evidence is None else shortened(finding.evidence, 200)
    detail = ": ".join(filter(None, (", ".join(filter(None, where)), evidence)))
    if detail:
        yield line(Span(f"              {detail}", "dim"))


def _next_step(report: ScanReport) -> str | None:
    rules = {finding.rule for finding in report.findings}
    if any(rule.startswith("source.") for rule in rules):
        return "check the path and its permissions, then scan again"
    label = report.verdict.label
    if label in _LEAVE and report.container not in _SALVAGED:
        return _LEAVE[label]
    return _NEXT_STEP.get(label)


def tally(verdicts: Iterable[str]) -> str:
    """``"12 files: 9 safe, 2 unknown, 1 unsafe"``."""
    counts: dict[str, int] = {}
    for verdict in verdicts:
        counts[verdict] = counts.get(verdict, 0) + 1
    files = counted(sum(counts.values()), "file")
    known = [f"{counts.pop(word)} {word}" for word in _VERDICT_STYLE if word in counts]
    others = [f"{count} {word}" for word, count in counts.items()]
    return f"{files}: {', '.join(known + others)}" if known or others else files
