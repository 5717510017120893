"""Scan reports for people."""

from __future__ import annotations

from modelhub.container import Skipped
from modelhub.report.plain import render_line
from modelhub.report.scanned import SHOWN_FINDINGS, scan_lines, tally
from modelhub.scan import Confidence, Coverage, Finding, Location, ScanReport, Severity, Verdict


def _finding(severity: Severity, message: str = "does it", **where: object) -> Finding:
    return Finding("a.rule", severity, Confidence.HIGH, message, Location(**where), "evil()")  # type: ignore[arg-type]


def _text(verdict: Verdict, *findings: Finding, skipped: tuple[Skipped, ...] = (), verbosity: int = 0) -> list[str]:
    report = ScanReport("dir/x.ckpt", "torch-zip", verdict, Coverage(not skipped, skipped), findings, "1")
    return [render_line(spans) for spans in scan_lines(report, verbosity)]


def test_a_safe_file_is_one_line() -> None:
    """A SAFE file takes one line: verdict, path, what it is and why."""
    (only,) = _text(Verdict.SAFE)
    assert only.split()[:3] == ["SAFE", "dir/x.ckpt", "torch-zip;"]


def test_findings_come_worst_first_with_place_and_evidence() -> None:
    """The worst finding leads, and each says severity, message, rule, place and evidence."""
    first, worst, place, mild, *_ = _text(
        Verdict.UNSAFE,
        _finding(Severity.LOW, "is odd"),
        _finding(Severity.CRITICAL, "runs", member="data.pkl", offset=12),
    )
    assert "runs" in first
    assert worst.split() == ["critical", "runs", "[a.rule]"]
    assert place.strip() == "data.pkl, byte 12: evil()"
    assert mild.split() == ["low", "is", "odd", "[a.rule]"]


def test_remarks_are_left_to_v() -> None:
    """INFO findings are shown with -v only."""
    info = _finding(Severity.INFO, "is old")
    assert len(_text(Verdict.SAFE, info)) == 1
    assert any("is old" in text for text in _text(Verdict.SAFE, info, verbosity=1))


def test_many_findings_are_counted() -> None:
    """Of many findings the first are shown and the rest is counted; -v shows all."""
    many = [_finding(Severity.HIGH, f"number {number}") for number in range(SHOWN_FINDINGS + 5)]
    brief = "\n".join(_text(Verdict.UNSAFE, *many))
    assert "5 more findings" in brief
    assert f"number {SHOWN_FINDINGS}" not in brief
    assert f"number {SHOWN_FINDINGS + 4}" in "\n".join(_text(Verdict.UNSAFE, *many, verbosity=1))


def test_what_was_not_examined_is_said_once() -> None:
    """Skipped parts are listed with their reasons, but not twice where a finding says the same."""
    texts = _text(
        Verdict.UNKNOWN,
        _finding(Severity.LOW, "is encrypted"),
        skipped=(Skipped("is encrypted"), Skipped("too deep", "a/b.zip")),
    )
    assert sum("is encrypted" in text for text in texts[1:]) == 1
    assert any(text.strip() == "not examined  a/b.zip: too deep" for text in texts)
    assert texts[-1].strip().startswith("next: not proven safe")


def test_the_next_step_is_one_that_there_is() -> None:
    """Salvaging is offered for what convert reads, and not for archives, whose members it does not look for."""
    for kind, salvaged in (("torch-zip", True), ("pickle", True), ("7z", False), ("gzip", False), ("tar", False)):
        for verdict in (Verdict.SUSPICIOUS, Verdict.UNSAFE):
            report = ScanReport("x", kind, verdict, Coverage(True, ()), (_finding(Severity.HIGH),), "1")
            step = render_line(list(scan_lines(report))[-1])
            assert "do not load it" in step and ("--salvage" in step) is salvaged, (kind, step)


def test_tally() -> None:
    """The summary counts files by verdict, best first."""
    assert tally(["unsafe", "safe", "unknown", "safe"]) == "4 files: 2 safe, 1 unknown, 1 unsafe"
    assert tally(["safe"]) == "1 file: 1 safe"
