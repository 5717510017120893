"""Scan reports as SARIF 2.1.0 (OASIS, errata 01), for code scanning and for viewers of static analysis.

One run: the rules that were broken, one result per finding, every file as an artifact with its verdict, and what was
not examined as notifications of the invocation.

The log keeps within what GitHub code scanning accepts ("SARIF results exceed one or more limits" in its documentation):
at most 25,000 results per run (of which it shows 5,000, the worst first), 25,000 rules, one location per result (of at
most 1,000), ten tags per rule, 10 MB when compressed. Of more results the mildest are left out, and that is said. Each
result has a location with a path, relative to the working folder wherever that can be, and a ``startLine``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelhub.report.plain import shortened, visible
from modelhub.source import is_remote

if TYPE_CHECKING:
    from modelhub.scan.catalogue import Rule

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 25_000
"""Results that GitHub accepts in one run; it refuses the whole file for one more."""
_MAX_NOTIFICATIONS = 5_000
_ROOT = "%SRCROOT%"
"""What relative paths are relative to, by the name that GitHub gives to the checkout."""
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/!$&'()*+,;=@")
_LEVELS = {"info": "note", "low": "warning", "medium": "warning", "high": "error", "critical": "error"}
_SCORES = {"low": "3.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}
"""``security-severity`` in the middle of GitHub's bands: low to 3.9, medium to 6.9, high to 8.9, critical above."""
_ORDER = ("info", "low", "medium", "high", "critical")
_EXECUTION = ("source.", "internal.")
"""Rules about the scan itself, not about a file's content: notifications instead of results."""

Json = dict[str, Any]


def sarif_log(reports: Sequence[Mapping[str, Any]]) -> Json:
    """The SARIF log of *reports*, each as :func:`modelhub.report.json.scan_dict` gives it."""
    from modelhub import __version__

    found = [(report, finding) for report in reports for finding in report["findings"] if not _is_execution(finding)]
    left_out = max(0, len(found) - MAX_RESULTS)
    if left_out:
        found = sorted(found, key=lambda pair: -_ORDER.index(pair[1]["severity"]))[:MAX_RESULTS]
    ids = sorted({finding["rule"] for _, finding in found})
    index = {rule: number for number, rule in enumerate(ids)}
    files = {report["path"]: report for report in reports}  # SARIF wants no file twice, whoever names it twice
    artifacts = {path: number for number, path in enumerate(files)}
    fingerprints = _Fingerprints()
    notifications = [note for report in reports for note in _notifications(report)]
    failed = not reports or any(_is_execution(finding) for report in reports for finding in report["findings"])
    run: Json = {
        "tool": {
            "driver": {
                "name": "modelhub",
                "version": __version__,
                "semanticVersion": __version__,
                "shortDescription": {"text": "Judges model files without running a byte of them."},
                "rules": [_descriptor(rule) for rule in ids],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not failed,
                "toolExecutionNotifications": [*_limits(left_out, len(notifications)), *notifications][
                    :_MAX_NOTIFICATIONS
                ],
            }
        ],
        "artifacts": [_artifact(report) for report in files.values()],
        "columnKind": "unicodeCodePoints",
        "results": [
            _result(report, finding, index, artifacts[report["path"]], fingerprints) for report, finding in found
        ],
        "properties": {
            "verdict": _worst(report["verdict"] for report in reports),
            "complete": bool(reports) and all(report["coverage"]["complete"] for report in reports),
            "policyVersions": sorted({report["policy_version"] for report in reports}),
        },
    }
    return {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def path_uri(path: str) -> str:
    """*path* as a percent-encoded URI: relative with forward slashes where it lies below the working folder; an address
    as it is."""
    if path == "-":
        return "stdin"
    if is_remote(path):
        scheme, _, rest = path.partition("://")
        host, slash, below = rest.partition("/")
        return f"{scheme}://{_encoded(host).replace('%3A', ':')}{slash}{_encoded(below)}"
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        relative = os.pardir
    if relative == os.pardir or relative.startswith(os.pardir + os.sep):
        absolute = os.path.abspath(path).replace(os.sep, "/")
        return "file://" + ("" if absolute.startswith("/") else "/") + _encoded(absolute)
    return _encoded(relative.replace(os.sep, "/"))


def _encoded(path: str) -> str:
    try:
        data = path.encode("utf-8", "surrogateescape" if os.name == "posix" else "surrogatepass")
    except UnicodeEncodeError:  # no file's name: what a file says of itself may have any character
        data = path.encode("utf-8", "surrogatepass")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


def _artifact_location(uri: str, index: int | None = None) -> Json:
    location: Json = {"uri": uri}
    if ":" not in uri:  # _encoded leaves no colon but that of a scheme
        location["uriBaseId"] = _ROOT
    if index is not None:
        location["index"] = index
    return location


def _artifact(report: Mapping[str, Any]) -> Json:
    artifact: Json = {
        "location": _artifact_location(path_uri(report["path"])),
        "roles": ["analysisTarget"],
        "properties": {
            "verdict": report["verdict"],
            "container": report["container"],
            "complete": report["coverage"]["complete"],
        },
    }
    if report["digest"]["sha256"] is not None:
        artifact["hashes"] = {"sha-256": report["digest"]["sha256"]}
    return artifact


def _descriptor(rule_id: str) -> Json:
    """What a rule means, from the catalogue."""
    from modelhub.scan.catalogue import catalogue

    rule = catalogue().get(rule_id)
    if rule is None:
        return {"id": rule_id, "name": rule_id, "shortDescription": {"text": rule_id}}
    severity = rule.severity.label
    security = ["security"] if severity in _SCORES else []
    properties: Json = {"tags": [*security, rule.subject]}
    if severity in _SCORES:
        properties["security-severity"] = _SCORES[severity]
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": f"{rule.means} {rule.why}"},
        "help": _help(rule),
        "defaultConfiguration": {"level": _LEVELS[severity]},
        "properties": properties,
    }


def _help(rule: Rule) -> Json:
    from modelhub.scan.catalogue import code

    plain = f"{rule.means} {rule.why}\n\nExample: {rule.example}\n\nWhat to do: {rule.next}"
    marked = f"{rule.means} {rule.why}\n\n**Example:** {code(rule.example)}\n\n**What to do:** {rule.next}"
    sources = "; ".join(rule.sources)
    return {"text": f"{plain}\n\nSource: {sources}", "markdown": f"{marked}\n\n**Source:** {sources}"}


def _result(
    report: Mapping[str, Any],
    finding: Mapping[str, Any],
    rules: Mapping[str, int],
    artifact: int,
    fingerprints: _Fingerprints,
) -> Json:
    file, member = _place(report, finding["location"]["member"])
    uri = path_uri(file)
    return {
        "ruleId": finding["rule"],
        "ruleIndex": rules[finding["rule"]],
        "kind": "fail",
        "level": _LEVELS[finding["severity"]],
        "message": {"text": _text(_sentence(finding, member))},
        "locations": [
            _location(uri, member, finding["location"]["offset"], artifact if file == report["path"] else None)
        ],
        "partialFingerprints": fingerprints.of(uri, member, finding),
        "properties": {
            "verdict": report["verdict"],
            "severity": finding["severity"],
            "confidence": finding["confidence"],
            "evidence": None if finding["evidence"] is None else visible(finding["evidence"]),
        },
    }


def _place(report: Mapping[str, Any], member: str | None) -> tuple[str, str | None]:
    """The file that a finding is in, and the member of it; the members of a folder are files (``part!member``)."""
    if report["container"] != "diffusers-folder" or member is None:
        return report["path"], member
    part, _, inner = member.partition("!")
    return os.path.join(report["path"], part), inner or None


def _location(uri: str, member: str | None, offset: int | None, artifact: int | None) -> Json:
    region: Json = {"startLine": 1}  # code scanning shows no result without a line, not even one in a binary file
    properties: Json = {}
    if offset is not None and offset >= 0:
        properties["offset"] = offset
        if member is None:
            region["byteOffset"] = offset
    location: Json = {"physicalLocation": {"artifactLocation": _artifact_location(uri, artifact), "region": region}}
    if member is not None:
        name = visible(member)
        location["logicalLocations"] = [{"name": name, "fullyQualifiedName": f"{uri}!{name}", "kind": "member"}]
    if properties:
        location["properties"] = properties
    return location


def _sentence(finding: Mapping[str, Any], member: str | None) -> str:
    """A finding in one sentence with its place and evidence, since a viewer may show nothing else."""
    offset = finding["location"]["offset"]
    where = ", ".join(filter(None, (member, None if offset is None else f"byte {offset}")))
    evidence = None if finding["evidence"] is None else shortened(finding["evidence"], 300)
    said = shortened(finding["message"], 600) + (f" ({shortened(where, 200)})" if where else "")
    return f"{said}: {evidence}" if evidence else said


def _text(text: str) -> str:
    """*text* from a hostile file as a message: no link (§3.11.6) and no placeholder (§3.11.5) can be made of it."""
    harmless = visible(text).replace("](", "] (")
    return re.sub(r"\{([0-9]+)\}", r"{{\1}}", harmless)


class _Fingerprints:
    """What makes a result the same in the next run: file, rule, member and evidence, not its byte offset.

    GitHub compares ``primaryLocationLineHash`` within one path and rule. Results that are alike are numbered.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def of(self, uri: str, member: str | None, finding: Mapping[str, Any]) -> Json:
        import hashlib

        parts = (uri, finding["rule"], member or "", finding["evidence"] or finding["message"])
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(text).hexdigest()[:16]
        count = self._seen[digest] = self._seen.get(digest, 0) + 1
        return {"primaryLocationLineHash": f"{digest}:{count}", "modelhub/v1": f"{digest}:{count}"}


def _notifications(report: Mapping[str, Any]) -> Iterable[Json]:
    """What was not examined of one file, and what failed; not what a result says already."""
    said = {(finding["message"], finding["location"]["member"]) for finding in report["findings"]}
    for finding in report["findings"]:
        if _is_execution(finding):
            yield _notification(report, None, finding["message"], "error") | {"descriptor": {"id": finding["rule"]}}
    for skipped in report["coverage"]["skipped"]:
        if (skipped["reason"], skipped["member"]) not in said:
            yield _notification(report, skipped["member"], skipped["reason"], "warning")


def _notification(report: Mapping[str, Any], member: str | None, reason: str, level: str) -> Json:
    file, inner = _place(report, member)
    uri = path_uri(file)
    return {
        "level": level,
        "message": {"text": _text(f"{file}: {inner + ': ' if inner else ''}not examined: {shortened(reason, 600)}")},
        "locations": [_location(uri, inner, None, None)],
    }


def _limits(results: int, notifications: int) -> Iterable[Json]:
    """That something was left out of the log."""
    if results:
        text = f"{results} of the mildest results are left out: code scanning accepts {MAX_RESULTS} in one run"
        yield {"level": "warning", "message": {"text": text}}
    if notifications >= _MAX_NOTIFICATIONS:
        text = f"of {notifications} notifications only {_MAX_NOTIFICATIONS - 2} are listed"
        yield {"level": "warning", "message": {"text": text}}


def _is_execution(finding: Mapping[str, Any]) -> bool:
    return bool(finding["rule"].startswith(_EXECUTION))


def _worst(verdicts: Iterable[str]) -> str | None:
    order = ("safe", "unknown", "suspicious", "unsafe")
    return max(verdicts, key=order.index, default=None)
