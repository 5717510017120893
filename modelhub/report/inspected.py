"""An inspection as a plain JSON object and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelhub.identify.base import Adapter, Identity
from modelhub.report.json import identity_dict, tensor_dict, traffic_dict
from modelhub.report.plain import Column, Line, Span, Table, byte_size, counted, fields, line, shortened
from modelhub.report.scanned import traffic_line
from modelhub.verbs import Inspection

if TYPE_CHECKING:
    from modelhub.identify.near import NearMiss

SHOWN_METADATA = 12
"""Metadata pairs printed without ``-v``."""


def inspect_dict(inspection: Inspection, *, tensors: bool = False, explain: bool = False) -> dict[str, Any]:
    """The inspection of one file or folder; ``error`` says why its tensors could not be told.

    With *explain*, ``near_misses`` lists what it is not and the first condition that failed.
    """
    listed = list(inspection.tensors())
    container = inspection.container
    return {
        "path": container.name,
        "container": container.kind,
        **identity_dict(inspection.identity),
        "metadata": dict(inspection.metadata),
        "tensor_count": len(listed) if _has_tensors(inspection) else None,
        "parameter_count": sum(t.numel for _, t in listed) if _has_tensors(inspection) else None,
        "error": inspection.problem,
        "notes": list(inspection.notes),
        **traffic_dict(inspection.traffic),
        **({"near_misses": [_miss_dict(miss) for miss in inspection.near_misses]} if explain else {}),
        **({"tensors": [tensor_dict(tensor, member) for member, tensor in listed]} if tensors else {}),
    }


def _miss_dict(miss: NearMiss) -> dict[str, Any]:
    return {"value": miss.value, "held": miss.held, "conditions": miss.conditions, "detail": miss.detail}


def failed_dict(path: str, reason: str) -> dict[str, Any]:
    """The same object for a path that could not be opened."""
    return {
        "path": path,
        "container": None,
        **identity_dict(None),
        "metadata": {},
        "tensor_count": None,
        "parameter_count": None,
        "error": reason,
        "notes": [],
    }


def inspect_lines(inspection: Inspection, verbosity: int = 0, *, explain: bool = False) -> Iterator[Line]:
    """The facts about one file or folder; the evidence behind them and all metadata with ``-v``.

    *explain* shows the evidence too, and what came near but does not fit.
    """
    container, identity = inspection.container, inspection.identity
    listed = list(inspection.tensors())
    yield line(Span(container.name, "bold"))
    if inspection.problem is not None:
        yield line("  ", Span("problem", "unknown"), f"  {inspection.problem}")
    yield from fields(
        [
            ("container", container.kind),
            ("kind", identity.kind),
            ("architecture", identity.architecture or (_alternatives(identity))),
            ("variant", identity.variant),
            ("prediction type", identity.prediction_type),
            ("precision", identity.precision),
            ("components", ", ".join(identity.components) or None),
            ("adapter", _adapter_text(identity.adapter) if identity.adapter else None),
            ("tensors", _size_text(inspection) if listed else None),
            *(("note", note) for note in inspection.notes),
        ]
    )
    if verbosity > 0 or explain:
        for item in identity.evidence:
            yield line(Span(f"    {item.fact} = {item.value}: {item.detail} ({item.by}, {item.confidence})", "dim"))
    for miss in inspection.near_misses:
        yield line(
            Span(f"    not {miss.value}: {miss.detail} ({miss.held} of {miss.conditions} conditions hold)", "dim")
        )
    yield from _metadata_lines(inspection.metadata, verbosity)
    if inspection.traffic is not None:
        yield traffic_line(inspection.traffic)


def failed_lines(path: str, reason: str) -> Iterator[Line]:
    """The lines for a path that could not be opened."""
    yield line(Span(path, "bold"))
    yield line("  ", Span("problem", "unknown"), f"  {reason}")


def tensor_table(inspection: Inspection) -> Table:
    """Every tensor: name, element type, shape, bytes."""
    columns = (Column("tensor", wraps=True), Column("type"), Column("shape"), Column("bytes", right=True))
    rows = tuple(
        line(
            tensor.name if member is None else f"{member}: {tensor.name}",
            tensor.dtype.label,
            "x".join(map(str, tensor.shape)) or "scalar",
            f"{tensor.nbytes:,}",
        )
        for member, tensor in inspection.tensors()
    )
    return Table(columns, rows)


def _has_tensors(inspection: Inspection) -> bool:
    return any(part.state_dict is not None for _, part in inspection.container.files())


def _alternatives(identity: Identity) -> str | None:
    return f"not decided: {' or '.join(identity.candidates)}" if identity.candidates else None


def _size_text(inspection: Inspection) -> str:
    listed = [tensor for _, tensor in inspection.tensors()]
    parameters = sum(tensor.numel for tensor in listed)
    nbytes = sum(tensor.nbytes for tensor in listed)
    return f"{len(listed):,} ({counted(parameters, 'parameter')}, {byte_size(nbytes)})"


def _adapter_text(adapter: Adapter) -> str:
    parts = [adapter.dialect, "+".join(adapter.algorithms), counted(adapter.modules, "module")]
    if adapter.rank is not None:
        parts.append(f"rank {adapter.rank}" + (" and others" if len(adapter.ranks) > 1 else ""))
    if adapter.alpha is not None:
        parts.append(f"alpha {adapter.alpha:g}" + (" and others" if len(adapter.alphas) > 1 else ""))
    if adapter.targets:
        parts.append(f"for {', '.join(adapter.targets)}")
    return ", ".join(part for part in parts if part)


def _metadata_lines(metadata: Mapping[str, object], verbosity: int) -> Iterator[Line]:
    pairs = [(shortened(str(key), 60), shortened(_value_text(value), 400)) for key, value in metadata.items()]
    if not pairs:
        return
    yield line(Span("  metadata", "dim"))
    limit = len(pairs) if verbosity > 0 else SHOWN_METADATA
    yield from fields(((key, shortened(text, 400 if verbosity > 0 else 80)) for key, text in pairs[:limit]), 4)
    if len(pairs) > limit:
        yield line(Span(f"    … and {counted(len(pairs) - limit, 'more pair')} (-v shows all)", "dim"))


def _value_text(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number too long to print"
