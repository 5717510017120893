"""Is it safe: every pickle's trace and every oddity of a container, judged by the policy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from modelhub.anomalies import Anomaly
from modelhub.container import Container, PickleProgram, Skipped
from modelhub.pickles import Global
from modelhub.scan.findings import (
    Confidence,
    Coverage,
    Finding,
    Location,
    ScanReport,
    Severity,
    Verdict,
)
from modelhub.scan.policy import Policy
from modelhub.scan.policy_file import load_policy
from modelhub.scan.rules.calls import judge_calls, judge_mutations, judge_persistent_ids, judge_states
from modelhub.scan.rules.imports import judge_imports
from modelhub.source import Digest

_STORAGE_KINDS = frozenset({"torch-zip", "torch-legacy", "torch-tar", "torchscript"})
_CLASS_KINDS = frozenset({"torch-legacy", "torch-tar"})
_BYTES = re.compile(r"bytes@[0-9]+(?=!|$)")
_SHOWN = 5
"""Findings that one rule may have in one member before the rest is counted instead of listed."""


def scan(container: Container, policy: Policy | None = None, digest: Digest | None = None) -> ScanReport:
    """What loading *container* would do, and whether that is safe.

    Never raises for its content. The verdict is the worst that any finding forces; ``SAFE`` is only given when
    everything that a loader could interpret was read and understood. *digest*, of the same bytes, is passed on.
    """
    policy = policy or load_policy()
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for relative, part in container.files():
        found = _judge(part, policy)
        findings += found if relative is None else [_below(relative, finding) for finding in found]
        skipped += [_skip_below(relative, skip) for skip in part.skipped]
    if container.source is None:
        findings += [_from_anomaly(anomaly, policy) for anomaly in container.anomalies]
        skipped += container.skipped
    if policy.extended:
        names = ", ".join(f"{module}.{name}" for module, name in policy.own)
        message = "judged by a policy that allows more names than modelhub's own"
        findings.append(Finding("policy.extended", Severity.INFO, Confidence.HIGH, message, evidence=names[:200]))
    findings.sort(key=lambda f: -f.severity)
    for finding in findings:
        if finding.severity is Severity.LOW:
            skip = Skipped(finding.message, finding.location.member)
            if skip not in skipped:
                skipped.append(skip)
    verdict = max((finding.severity.verdict for finding in findings), default=Verdict.SAFE)
    if skipped:
        verdict = max(verdict, Verdict.UNKNOWN)
    return ScanReport(
        path=container.name,
        container=container.kind,
        verdict=verdict,
        coverage=Coverage(not skipped, tuple(skipped)),
        findings=tuple(findings),
        policy_version=policy.version,
        digest=digest,
    )


def _judge(container: Container, policy: Policy) -> Iterator[Finding]:
    for anomaly in container.anomalies:
        yield _from_anomaly(anomaly, policy)
    for program in container.pickles:
        found = _judge_program(program, container, policy)
        yield from _few(_located(finding, program) for finding in found)


def _judge_program(program: PickleProgram, container: Container, policy: Policy) -> Iterator[Finding]:
    trace = program.trace
    for anomaly in trace.anomalies:
        yield _from_anomaly(anomaly, policy)
    yield from judge_imports(trace, policy)
    yield from judge_calls(trace, policy, _followed(program, container))
    yield from judge_states(trace, policy)
    yield from judge_mutations(trace)
    nested = program.role == "nested"
    is_object = program.role == "object"
    storages = nested or (is_object and container.kind in _STORAGE_KINDS)
    classes = nested or (is_object and container.kind in _CLASS_KINDS)
    tensors = is_object and container.kind == "torch-tar"
    yield from judge_persistent_ids(trace, storages, classes, tensors)


def _followed(program: PickleProgram, container: Container) -> frozenset[int]:
    """Offsets of the calls in *program* that load bytes which *container* has as a file within the file.

    The readers name such a file after the member and the call's offset in it; bytes that are loaded twice, once.
    """
    trace = program.trace
    if not any(each.name == "_load_from_bytes" for each in trace.imports):
        return frozenset()
    members = {each.member for each in container.pickles if each.role != "object" and each.member}
    tops = {member[: end.end()] for member in members for end in _BYTES.finditer(member)}
    above = "" if program.member is None else f"{program.member}!"
    offsets: set[int] = set()
    literals: set[int] = set()
    for call in trace.calls:
        if type(call.callee) is not Global or type(call.args) is not tuple or not call.args:
            continue
        if id(call.args[0]) in literals or f"{above}bytes@{call.offset - program.origin}" in tops:
            offsets.add(call.offset)
            literals.add(id(call.args[0]))
    return frozenset(offsets)


def _from_anomaly(anomaly: Anomaly, policy: Policy) -> Finding:
    return Finding(
        anomaly.rule,
        policy.severity_of(anomaly.rule),
        Confidence.HIGH,
        anomaly.message,
        Location(anomaly.member, anomaly.offset),
        anomaly.evidence,
    )


def _located(finding: Finding, program: PickleProgram) -> Finding:
    offset = finding.location.offset
    within = None if offset is None else offset - program.origin
    return replace(finding, location=Location(program.member, within))


def _below(relative: str, finding: Finding) -> Finding:
    member = finding.location.member
    located = Location(f"{relative}!{member}" if member else relative, finding.location.offset)
    return replace(finding, location=located)


def _skip_below(relative: str | None, skip: Skipped) -> Skipped:
    if relative is None:
        return skip
    return Skipped(skip.reason, f"{relative}!{skip.member}" if skip.member else relative)


def _few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first findings of each rule and severity; the last one listed says how many more there are."""
    groups: dict[tuple[str, Severity], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.rule, finding.severity), []).append(finding)
    for group in groups.values():
        yield from group[: _SHOWN - 1]
        if len(group) > _SHOWN:
            last = group[_SHOWN - 1]
            yield replace(last, message=f"{last.message} (and {len(group) - _SHOWN} more like it)")
        else:
            yield from group[_SHOWN - 1 :]
