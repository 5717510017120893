"""Scan reports as text, to be kept or to be handed from one process to another."""

from __future__ import annotations

import json
from dataclasses import asdict

from modelhub.container.base import Skipped
from modelhub.scan.findings import Confidence, Coverage, Finding, Location, ScanReport, Severity, Verdict
from modelhub.source import Digest, Traffic


def dump_report(report: ScanReport) -> str:
    """*report* as ASCII JSON on one line; :func:`load_report` gives it back."""
    return json.dumps(asdict(report), separators=(",", ":"))


def load_report(text: str) -> ScanReport:
    """The report that :func:`dump_report` wrote. Raises :class:`ValueError` for any other text."""
    try:
        plain = json.loads(text)
        coverage = plain["coverage"]
        coverage["skipped"] = tuple(Skipped(**skipped) for skipped in coverage["skipped"])
        digest = plain["digest"]
        known = {
            "verdict": Verdict(plain["verdict"]),
            "coverage": Coverage(**coverage),
            "findings": tuple(
                Finding(
                    **{
                        **finding,
                        "severity": Severity(finding["severity"]),
                        "confidence": Confidence(finding["confidence"]),
                        "location": Location(**finding["location"]),
                    }
                )
                for finding in plain["findings"]
            ),
            "digest": None if digest is None else Digest(**digest),
            "traffic": None if plain["traffic"] is None else Traffic(**plain["traffic"]),
        }
        return ScanReport(**{**plain, **known})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stored report: {error}") from error
