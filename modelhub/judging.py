"""Scanning one file of many: whatever goes wrong with it becomes its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from modelhub import verbs
from modelhub.failures import failed_report, reason_of, rule_of
from modelhub.source import shown_address

if TYPE_CHECKING:
    from modelhub.scan import Policy, ScanReport
    from modelhub.source import Found

Progress = Callable[[int], None]

_MODELS = frozenset(
    "safetensors torch-zip torch-legacy torch-tar torchscript pickle diffusers-folder gguf onnx hdf5 numpy".split()
)
"""Kinds of container that are reported under any name."""

_PACKAGES = frozenset("zip tar 7z gzip bz2 xz lzma zlib lz4 zstd".split())
"""Kinds of container in which a model may lie."""


class ScanOptions(NamedTuple):
    """How each file is scanned: the options of :func:`modelhub.verbs.scan`."""

    policy: Policy
    digest: bool | None = None
    deep: bool = False
    second_opinion: bool | None = None

    @property
    def reads_all(self) -> bool:
        """Whether every byte of every file is read, so that a few files are much work already."""
        return self.deep or self.digest is True

    @property
    def may_be_cached(self) -> bool:
        """Whether a verdict given before will do: not where the disk or another program is asked on purpose."""
        return not self.deep and self.second_opinion is not True


class Answer(NamedTuple):
    """A report, and the traceback of what failed on the way to it, if something did."""

    report: ScanReport
    traceback: str | None = None


def judge(target: verbs.Target, path: str, options: ScanOptions, progress: Progress | None = None) -> Answer:
    """Scan *target*, known as *path*; what fails becomes a report that says so."""
    try:
        report = verbs.scan(
            target,
            policy=options.policy,
            digest=options.digest,
            deep=options.deep,
            second_opinion=options.second_opinion,
            progress=progress,
        )
    except Exception as error:
        return failure(path, error, options.policy)
    return Answer(report)


def judge_found(found: Found, options: ScanOptions, progress: Progress | None = None) -> Answer:
    """Scan *found*. What nobody expects to be a model is only glanced at, unless the glance shows that it is one."""
    if not found.expected:
        answer = judge(found.path, found.path, ScanOptions(options.policy, digest=False, second_opinion=False))
        if not is_of_interest(answer.report):
            return answer
    return judge(found.path, found.path, options, progress)


def failure(path: str, error: Exception, policy: Policy) -> Answer:
    """The answer for a *path* that could not be examined because of *error*."""
    import traceback

    path = shown_address(path)
    report = failed_report(path, rule_of(error), reason_of(error, path), policy.version)
    return Answer(report, "".join(traceback.format_exception(error)))


def is_of_interest(report: ScanReport) -> bool:
    """Whether to tell people of a file whose name does not say that it is a model."""
    if report.container is None:
        return any(finding.rule == "internal.error" for finding in report.findings)
    if report.verdict.label == "safe" and report.container in _PACKAGES:
        return True  # all that lies in it is understood, and nothing but a model is
    return report.container in _MODELS or report.verdict.label in ("suspicious", "unsafe")
