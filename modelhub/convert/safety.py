"""What may be converted: files whose verdict is SAFE, and on request what was saved of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelhub.container import Container
from modelhub.convert.convertible import convertible
from modelhub.convert.options import ConversionOptions
from modelhub.convert.plan import plan_conversion
from modelhub.errors import UnsafeModelError

if TYPE_CHECKING:
    from modelhub.scan import Policy, ScanReport


def judge(
    container: Container,
    policy: Policy | None = None,
    *,
    salvage: bool = False,
    dense: bool = False,
    done: str = "converted",
) -> bool:
    """Whether *container* is safe; :class:`UnsafeModelError` where it is not and is not to be salvaged.

    *dense*: sparse and quantised tensors are computed and do not count. *done* is what is not done with it, for the
    error.
    """
    from modelhub.scan import Verdict, scan

    report = scan(container, policy)
    if report.verdict > Verdict.UNKNOWN and not salvage:
        raise _refusal(report, done)
    if report.verdict is Verdict.UNKNOWN and dense and _only_not_dense(report):
        return True
    if report.verdict is Verdict.UNKNOWN and not salvage:
        # what keeps a file from being understood is said best by what cannot be converted
        if container.kind == "safetensors":
            convertible(container)
        else:
            plan_conversion(container, None, ConversionOptions(dense=dense))
        raise _refusal(report, done)
    return report.verdict is Verdict.SAFE


_NOT_DENSE = frozenset(
    {f"torch._utils.{name}" for name in ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_qtensor")}
    | {f"torch.sparse_{layout}" for layout in ("coo", "csr", "csc", "bsr", "bsc")}
    | {f"torch.{name}" for name in ("per_tensor_affine", "per_channel_affine", "qint8", "quint8", "qint32")}
)
"""What rebuilds sparse and quantised tensors: unproven for torch, which believes their indices and scales."""


def _only_not_dense(report: ScanReport) -> bool:
    """Whether a file is not SAFE for nothing but sparse and quantised tensors, which are not rebuilt but computed."""
    from modelhub.scan import Severity

    told = [finding for finding in report.findings if finding.severity > Severity.INFO]
    reasons = {finding.message for finding in told}
    return all(skipped.reason in reasons for skipped in report.coverage.skipped) and all(
        finding.rule == "tensor.unmodelled"
        and (finding.evidence or "").partition("(")[0] in _NOT_DENSE
        and not finding.message.endswith("more like it)")  # what is not shown may be anything
        for finding in told
    )


def _refusal(report: ScanReport, done: str) -> UnsafeModelError:
    worst = max(report.findings, key=lambda finding: finding.severity, default=None)
    if worst is not None:
        reason = worst.message
    elif report.coverage.skipped:
        reason = report.coverage.skipped[0].reason
    else:
        reason = "it was not understood completely"
    return UnsafeModelError(
        f"{report.path}: not {done}, because it is {report.verdict.label}: {reason}",
        report,
        hint="--salvage copies only its tensors' bytes, which is safe to do",
    )
