"""Scanning of programs and objects made in a test."""

from __future__ import annotations

import io

import torch

from modelhub.container import open_container
from modelhub.scan import ScanReport, scan
from modelhub.source import BytesSource


def judged(data: bytes, name: str = "file.pt") -> ScanReport:
    """The report on *data* as a file of its own."""
    return scan(open_container(BytesSource(name, data)))


def saved(value: object, *, legacy: bool = False, protocol: int = 2) -> bytes:
    """What ``torch.save`` writes."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return out.getvalue()


def rules(report: ScanReport) -> set[str]:
    return {finding.rule for finding in report.findings}
