"""What could not be examined, in words and as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelhub.errors import AccessDenied, ModelHubError, NotFound, SourceError

if TYPE_CHECKING:
    from modelhub.scan.findings import ScanReport


def reason_of(error: Exception, path: str) -> str:
    """Why *path* could not be examined, in a sentence that need not name it again."""
    if isinstance(error, (ModelHubError, OSError)):
        return str(error).removeprefix(f"{path}: ")
    return f"modelhub failed on this file, please report it: {type(error).__name__}: {error}"


def rule_of(error: Exception) -> str:
    """The id of the rule that a file breaks which raised *error*."""
    match error:
        case NotFound():
            return "source.not-found"
        case AccessDenied():
            return "source.access-denied"
        case SourceError() | OSError():
            return "source.unreadable"
        case _:
            return "internal.error"


def failed_report(path: str, rule: str, reason: str, policy_version: str) -> ScanReport:
    """The report on a file that could not be examined because of *reason*: not known, and not complete."""
    from modelhub.container import Skipped
    from modelhub.scan.findings import Confidence, Coverage, Finding, ScanReport, Severity, Verdict

    return ScanReport(
        path=path,
        container=None,
        verdict=Verdict.UNKNOWN,
        coverage=Coverage(complete=False, skipped=(Skipped(reason),)),
        findings=(Finding(rule, Severity.LOW, Confidence.HIGH, reason),),
        policy_version=policy_version,
    )
