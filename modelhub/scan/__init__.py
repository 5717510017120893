"""Is it safe to load: a verdict with findings, from the traces and oddities that the readers state."""

from modelhub.scan.findings import (
    Confidence,
    Coverage,
    Finding,
    Location,
    ScanReport,
    Severity,
    Verdict,
)
from modelhub.scan.policy import Allowed, Denied, Policy
from modelhub.scan.policy_file import load_policy
from modelhub.scan.scanner import scan

__all__ = [
    "Allowed",
    "Confidence",
    "Coverage",
    "Denied",
    "Finding",
    "Location",
    "Policy",
    "ScanReport",
    "Severity",
    "Verdict",
    "load_policy",
    "scan",
]
