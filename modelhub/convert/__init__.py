"""Turning a checkpoint into safetensors without executing anything of it.

A conversion is planned (:func:`plan_conversion`, pure), carried out (:func:`execute`) and proved (:func:`verify`, a
part of executing). Only bytes that the file's description of itself calls tensor data are copied, so the result is
safe by construction, even that of a file that is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelhub.container import open_path
from modelhub.convert.base import Assembly, Conversion, ConversionPlan, OutputFile, Piece, PlainFile, PlannedTensor
from modelhub.convert.execute import check_target, execute
from modelhub.convert.names import SALVAGED_KEY, SHARED_KEY
from modelhub.convert.plan import plan_conversion
from modelhub.convert.verify import verify
from modelhub.errors import UnsafeModelError
from modelhub.source import MODEL_EXTENSIONS

if TYPE_CHECKING:
    from modelhub.scan import Policy, ScanReport

__all__ = [
    "SALVAGED_KEY",
    "SHARED_KEY",
    "Assembly",
    "Conversion",
    "ConversionPlan",
    "OutputFile",
    "Piece",
    "PlainFile",
    "PlannedTensor",
    "convert",
    "default_target",
    "execute",
    "plan_conversion",
    "verify",
]


def convert(
    source_path: str | os.PathLike[str],
    target_path: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Conversion | ConversionPlan:
    """Convert the file *source_path* to safetensors, if it is safe; the plan alone with *dry_run*.

    *target_path* is a file or an existing folder, by default :func:`default_target`; *force* replaces what is there.
    *salvage* also converts a file whose verdict is not SAFE and says so in the metadata. *progress* is told bytes as
    they are written. Raises :class:`UnsafeModelError` for a file that is not safe, and what
    :func:`plan_conversion` and :func:`execute` raise.
    """
    from modelhub.scan import Verdict, scan

    name = os.fspath(source_path)
    target = default_target(name, None if target_path is None else os.fspath(target_path))
    with open_path(name) as container:
        report = scan(container, policy)
        safe = report.verdict is Verdict.SAFE
        if report.verdict > Verdict.UNKNOWN and not salvage:
            raise _refusal(report)
        plan = plan_conversion(container, metadata=None if safe else {SALVAGED_KEY: "true"})
        if not safe and not salvage:
            raise _refusal(report)
        if dry_run:
            check_target(plan, target, force=force)
            return plan
        return execute(plan, target, force=force, progress=progress)


def default_target(source_path: str, target_path: str | None = None) -> str:
    """Where converting *source_path* writes: *target_path*, inside it where that is a folder, by default beside itself.

    ``model.vae.pt`` becomes ``model.vae.safetensors``; an ending that no model file has is kept as a part of the name.
    """
    stem, extension = os.path.splitext(source_path)
    if extension.lower() not in MODEL_EXTENSIONS:
        stem = source_path
    if target_path is None:
        return f"{stem}.safetensors"
    if os.path.isdir(target_path):
        return os.path.join(target_path, f"{os.path.basename(stem)}.safetensors")
    return target_path


def _refusal(report: ScanReport) -> UnsafeModelError:
    worst = max(report.findings, key=lambda finding: finding.severity, default=None)
    if worst is not None:
        reason = worst.message
    elif report.coverage.skipped:
        reason = report.coverage.skipped[0].reason
    else:
        reason = "it was not understood completely"
    return UnsafeModelError(
        f"{report.path}: not converted, because it is {report.verdict.label}: {reason}",
        report,
        hint="--salvage copies only its tensors' bytes, which is safe to do",
    )
