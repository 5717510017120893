"""The values of modelhub as plain JSON objects. Field names and their meaning only change with the schema's version.

The text is ASCII and strictly valid JSON whatever a file contains: bytes of a file name that are not UTF-8 appear as
Python's surrogate escapes (``"\\udcff"``, as :func:`os.fsdecode` gives them), a number that is not finite as ``null``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelhub.container.base import Skipped
    from modelhub.convert.base import Conversion, ConversionPlan
    from modelhub.convert.recheck import Recheck
    from modelhub.identify.base import Adapter, Identity
    from modelhub.scan.findings import Coverage, Finding, ScanReport
    from modelhub.source import Digest, Traffic
    from modelhub.tensors import TensorInfo

SCAN_SCHEMA = "modelhub.scan/1"
INSPECT_SCHEMA = "modelhub.inspect/1"
CONVERT_SCHEMA = "modelhub.convert/1"
MERGE_SCHEMA = "modelhub.merge/1"
BLEND_SCHEMA = "modelhub.blended/1"
EXTRACT_SCHEMA = "modelhub.extract/1"
RESIZE_SCHEMA = "modelhub.resize/1"
VERIFY_SCHEMA = "modelhub.verify/1"
FETCH_SCHEMA = "modelhub.fetch/1"
OUTDATED_SCHEMA = "modelhub.outdated/1"
ENRICH_SCHEMA = "modelhub.enrich/1"
PUSH_SCHEMA = "modelhub.push/1"
UPDATE_SCHEMA = "modelhub.update/1"
INTAKE_SCHEMA = "modelhub.intake/1"
CATALOG_SCHEMA = "modelhub.catalog/1"
RECORD_SCHEMA = "modelhub.record/1"
LIBRARY_SCHEMA = "modelhub.library/1"
SYNC_SCHEMA = "modelhub.sync/1"
HASH_SCHEMA = "modelhub.hash/1"
CHECK_SCHEMA = "modelhub.check/1"
DUPLICATES_SCHEMA = "modelhub.duplicates/1"
REIDENTIFY_SCHEMA = "modelhub.reidentify/1"
ORGANISE_SCHEMA = "modelhub.organise/1"
COLLECTION_SCHEMA = "modelhub.collection/1"
TAGS_SCHEMA = "modelhub.tags/1"
EXPORT_SCHEMA = "modelhub.export/1"
SMOKE_SCHEMA = "modelhub.smoke/1"
COMPARE_SCHEMA = "modelhub.compare/1"


def dumps(value: Mapping[str, Any], *, indent: bool = False) -> str:
    """*value* as ASCII JSON text: on one line, or indented for reading."""
    import json

    try:
        return json.dumps(value, allow_nan=False, indent=2 if indent else None)
    except (ValueError, TypeError):
        return json.dumps(_representable(value), allow_nan=False, indent=2 if indent else None)


def _representable(value: Any) -> Any:
    """*value* with what JSON cannot say replaced: not finite by ``null``, a vast integer by its size in words."""
    if isinstance(value, Mapping):
        return {str(key): _representable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_representable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() <= 4096 else f"an integer of {value.bit_length()} bits"
    return value if value is None or isinstance(value, str) else str(value)


def scan_dict(report: ScanReport) -> dict[str, Any]:
    """A scan report; ``digest.sha256`` is ``null`` where it was not computed; ``traffic`` is there for addresses."""
    return {
        "path": report.path,
        "digest": digest_dict(report.digest),
        "container": report.container,
        "verdict": report.verdict.label,
        "coverage": coverage_dict(report.coverage),
        "findings": [finding_dict(finding) for finding in report.findings],
        "policy_version": report.policy_version,
        **traffic_dict(report.traffic),
    }


def traffic_dict(traffic: Traffic | None) -> dict[str, Any]:
    """``traffic``, what came over the network in how many requests, of how many bytes; nothing for ``None``."""
    if traffic is None:
        return {}
    return {"traffic": {"requests": traffic.requests, "received": traffic.received, "size": traffic.size}}


def digest_dict(digest: Digest | None) -> dict[str, str | None]:
    return {"sha256": digest.sha256 if digest is not None else None}


def coverage_dict(coverage: Coverage) -> dict[str, Any]:
    return {"complete": coverage.complete, "skipped": [_skipped_dict(item) for item in coverage.skipped]}


def _skipped_dict(skipped: Skipped) -> dict[str, Any]:
    return {"member": skipped.member, "reason": skipped.reason}


def finding_dict(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity.label,
        "confidence": finding.confidence.label,
        "message": finding.message,
        "location": {"member": finding.location.member, "offset": finding.location.offset},
        "evidence": finding.evidence,
    }


def identity_dict(identity: Identity | None) -> dict[str, Any]:
    """The fields of an identity, each ``null`` or empty where it is not known."""
    if identity is None:
        from modelhub.identify.base import Identity as NoIdentity

        identity = NoIdentity()
    return {
        "kind": identity.kind,
        "architecture": identity.architecture,
        "variant": identity.variant,
        "prediction_type": identity.prediction_type,
        "precision": identity.precision,
        "components": list(identity.components),
        "adapter": _adapter_dict(identity.adapter) if identity.adapter is not None else None,
        "evidence": [
            {
                "fact": item.fact,
                "value": item.value,
                "by": item.by,
                "detail": item.detail,
                "confidence": item.confidence,
            }
            for item in identity.evidence
        ],
        "candidates": list(identity.candidates),
    }


def _adapter_dict(adapter: Adapter) -> dict[str, Any]:
    return {
        "dialect": adapter.dialect,
        "algorithms": dict(adapter.algorithms),
        "modules": adapter.modules,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "ranks": {str(rank): count for rank, count in adapter.ranks.items()},
        "alphas": {str(alpha): count for alpha, count in adapter.alphas.items()},
        "targets": list(adapter.targets),
    }


def tensor_dict(tensor: TensorInfo, member: str | None = None) -> dict[str, Any]:
    """One tensor: its element type by its safetensors name, its shape in elements and its size in bytes."""
    return {
        "name": tensor.name,
        "member": member,
        "dtype": tensor.dtype.label,
        "shape": list(tensor.shape),
        "nbytes": tensor.nbytes,
    }


def plan_dict(plan: ConversionPlan, target: str | None) -> dict[str, Any]:
    """What a conversion will do; *target* is where, ``null`` when the plan does not say."""
    return {
        "source": plan.source,
        "target": target,
        "tensor_count": len(plan.tensors),
        "size": plan.size,
        "metadata": dict(plan.outputs[0].metadata),
        "files": [
            {"path": output.path, "tensor_count": len(output.tensors), "size": output.size} for output in plan.outputs
        ],
        "notes": list(plan.notes),
        "leftovers": [{"path": item.path, "description": item.description} for item in plan.leftovers],
        "duplicated": [list(names) for names in plan.duplicated],
        "duplicated_bytes": plan.duplicated_bytes,
        "done": False,
        "seconds": None,
        "sources": [],
        "digests": [],
    }


def conversion_dict(conversion: Conversion) -> dict[str, Any]:
    """What a conversion did: the fields of its plan, ``done`` and the ``seconds`` it took; digests where asked for."""
    return plan_dict(conversion.plan, conversion.target) | {
        "size": conversion.size,
        "done": True,
        "seconds": conversion.seconds,
        "sources": [
            {
                "name": each.source.name,
                "digest": digest_dict(each.digest),
                "checksums": each.counts,
                "damaged": list(each.damaged),
            }
            for each in conversion.sources
        ],
        "digests": [
            {"path": made.path, "digest": digest_dict(made.whole), "content_digest": digest_dict(made.content)}
            for made in conversion.digests
        ],
    }


def recheck_dict(checked: Recheck) -> dict[str, Any]:
    """What checking an output came to."""
    return {
        "target": checked.target,
        "receipt": checked.receipt,
        "source": checked.source,
        "same": not checked.differences,
        "differences": list(checked.differences),
    }
