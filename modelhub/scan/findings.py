"""The words a scan answers in.

A finding's severity fixes the verdict that it forces, so that a report's verdict is always the worst of its findings:
``INFO`` none, ``LOW`` unknown (it was not understood), ``MEDIUM`` suspicious, ``HIGH`` and ``CRITICAL`` unsafe.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from modelhub.container.base import Skipped
from modelhub.source import Digest, Traffic


@enum.unique
class Verdict(enum.IntEnum):
    """How safe a file is to load, from best to worst; ``max()`` of several is the verdict of all together."""

    SAFE = 0
    UNKNOWN = 1
    SUSPICIOUS = 2
    UNSAFE = 3

    @property
    def label(self) -> str:
        return self.name.lower()


@enum.unique
class Severity(enum.IntEnum):
    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def verdict(self) -> Verdict:
        """The best verdict a file with such a finding can have."""
        return _VERDICT_OF[self]


_VERDICT_OF = {
    Severity.INFO: Verdict.SAFE,
    Severity.LOW: Verdict.UNKNOWN,
    Severity.MEDIUM: Verdict.SUSPICIOUS,
    Severity.HIGH: Verdict.UNSAFE,
    Severity.CRITICAL: Verdict.UNSAFE,
}


@enum.unique
class Confidence(enum.IntEnum):
    LOW = 0
    MEDIUM = 1
    HIGH = 2

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Location:
    """Where: the archive member (``None``: the file itself) and the byte offset in it (``None``: all of it)."""

    member: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact that speaks against loading a file; ``evidence`` is the call or bytes as text."""

    rule: str
    severity: Severity
    confidence: Confidence
    message: str
    location: Location = Location()
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether every byte that a loader could interpret was read and understood; if not, what was not."""

    complete: bool
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan found. It has no truth value: ask ``report.verdict is Verdict.SAFE``.

    ``container`` is the kind of file (``None`` when it could not be opened), ``digest`` the digest of the bytes
    judged (``None`` when it was not computed), ``policy_version`` the version of the rules that judged, ``traffic``
    what it took over the network (``None``: nothing).
    """

    path: str
    container: str | None
    verdict: Verdict
    coverage: Coverage
    findings: tuple[Finding, ...]
    policy_version: str
    digest: Digest | None = None
    traffic: Traffic | None = None

    def __bool__(self) -> bool:
        raise TypeError("a ScanReport is neither true nor false: compare its verdict")
