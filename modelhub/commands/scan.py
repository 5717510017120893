"""``modelhub scan``: verdict and findings, nothing changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from modelhub.commands import Outcome, each_source, judging, paths_argument, reason_of, reporting, target_of
from modelhub.errors import AccessDenied, NotFound, SourceError
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.report.human import ByteProgress
    from modelhub.scan import Policy, ScanReport


@click.command("scan")
@paths_argument
@click.option(
    "--digest/--no-digest",
    default=None,
    help="Read all bytes for the SHA-256, or do not. [default: only of files up to 4 MiB]",
)
@judging
@reporting
def command(*, paths: Sequence[str], digest: bool | None, outcome: Outcome, sink: Sink) -> int:
    """Say what loading each PATH would do. Nothing is executed and nothing is changed.

    A file named here is examined by its content, whatever its name; a folder is walked for model files; - is standard
    input. SAFE means that every byte a loader could interpret was read and understood.
    """
    from modelhub.scan import load_policy

    policy = load_policy()
    verdicts = []
    with sink.progress() if digest else nullcontext() as bar:
        for path, barred in each_source(paths):
            report = failed(path, barred, policy) if barred else _scan(path, policy, digest, bar, sink)
            outcome.add_report(report)
            verdicts.append(report.verdict.label)
            _add(report, sink)
    if sink.machine:
        from modelhub.report.json import SCAN_SCHEMA

        sink.document(SCAN_SCHEMA, "reports", complete=outcome.complete)
    from modelhub.report.scanned import tally

    sink.note(tally(verdicts) if verdicts else "nothing to scan: no model file was found there")
    return outcome.exit_code


def _scan(path: str, policy: Policy, digest: bool | None, bar: ByteProgress | None, sink: Sink) -> ScanReport:
    from modelhub import verbs

    if bar is not None:
        bar.begin_file(path)
    try:
        return verbs.scan(target_of(path), policy=policy, digest=digest, progress=bar.advance if bar else None)
    except Exception as error:
        sink.trace(error)
        return failed(path, error, policy)


def failed(path: str, error: Exception, policy: Policy) -> ScanReport:
    """The report on a file that could not be examined: not known, and not complete, because of *error*."""
    from modelhub.container import Skipped
    from modelhub.scan.findings import Confidence, Coverage, Finding, ScanReport, Severity, Verdict

    match error:
        case NotFound():
            rule = "source.not-found"
        case AccessDenied():
            rule = "source.access-denied"
        case SourceError() | OSError():
            rule = "source.unreadable"
        case _:
            rule = "internal.error"
    reason = reason_of(error, path)
    return ScanReport(
        path=path,
        container=None,
        verdict=Verdict.UNKNOWN,
        coverage=Coverage(complete=False, skipped=(Skipped(reason),)),
        findings=(Finding(rule, Severity.LOW, Confidence.HIGH, reason),),
        policy_version=policy.version,
    )


def _add(report: ScanReport, sink: Sink) -> None:
    if sink.machine:
        from modelhub.report.json import scan_dict

        sink.add(scan_dict(report))
    else:
        from modelhub.report.scanned import scan_lines

        sink.lines(scan_lines(report, sink.verbosity))
