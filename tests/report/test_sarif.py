"""Scan reports as SARIF."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from modelhub.container import Skipped
from modelhub.report import sarif
from modelhub.report.json import SCAN_SCHEMA, dumps, scan_dict
from modelhub.report.sarif import path_uri, sarif_log
from modelhub.report.sink import Sink
from modelhub.scan import Confidence, Coverage, Finding, Location, ScanReport, Severity, Verdict
from modelhub.scan.catalogue import catalogue
from modelhub.source import Digest

SCHEMA = json.loads((Path(__file__).parent / "sarif_schema" / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
VALIDATOR = Draft4Validator(SCHEMA)
URI = re.compile(r"(?:file://)?(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-F]{2}|(?<=/[A-Z]):)+")
"""RFC 3986: the characters of a path, with a scheme or without."""


def finding(rule: str = "call.dangerous", severity: Severity = Severity.CRITICAL, **changed: Any) -> Finding:
    where = Location(changed.pop("member", None), changed.pop("offset", None))
    message = changed.pop("message", "calls posix.system, which runs shell commands")
    return Finding(rule, severity, Confidence.HIGH, message, where, changed.pop("evidence", "posix.system('true')"))


def report(
    *findings: Finding, path: str = "models/x.ckpt", skipped: tuple[Skipped, ...] = (), **more: Any
) -> ScanReport:
    verdict = max((each.severity.verdict for each in findings), default=Verdict.SAFE)
    container = more.pop("container", "torch-zip")
    return ScanReport(path, container, verdict, Coverage(not skipped, skipped), findings, "1", **more)


def log_of(*reports: ScanReport) -> dict[str, Any]:
    """The log of *reports*, valid by the schema and after a way through its text."""
    log: dict[str, Any] = json.loads(dumps(sarif_log([scan_dict(each) for each in reports])))
    VALIDATOR.validate(log)
    return log


def run_of(*reports: ScanReport) -> dict[str, Any]:
    (run,) = log_of(*reports)["runs"]
    return run


def test_the_schema_itself_refuses_what_is_wrong() -> None:
    """The validator is a real one: it knows the schema and refuses a log that breaks it."""
    Draft4Validator.check_schema(SCHEMA)
    log = log_of(report(finding()))
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not VALIDATOR.is_valid(log)
    assert not VALIDATOR.is_valid({"version": "2.1.0"})


def test_one_run_of_one_tool() -> None:
    """A log has one run, by modelhub in its version, of all files."""
    log = log_of(report(finding()), report(path="y.safetensors"))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "modelhub"
    assert re.fullmatch(r"\d+\.\d+\.\d+", driver["semanticVersion"])
    assert run["properties"] == {"verdict": "unsafe", "complete": True, "policyVersions": ["1"]}


def test_rules_carry_the_catalogue() -> None:
    """Each rule that was broken is described once, with all that code scanning shows of it."""
    run = run_of(report(finding(), finding(offset=3), finding("zip.crc", Severity.LOW)), report(finding("zip.no-crc")))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["call.dangerous", "zip.crc", "zip.no-crc"]
    dangerous = rules[0]
    assert dangerous["name"] == "CallDangerous"
    assert dangerous["shortDescription"]["text"] == catalogue()["call.dangerous"].title + "."
    assert catalogue()["call.dangerous"].why in dangerous["fullDescription"]["text"]
    assert catalogue()["call.dangerous"].next in dangerous["help"]["text"]
    assert "**Example:** `" in dangerous["help"]["markdown"]
    assert dangerous["defaultConfiguration"]["level"] == "error"
    assert dangerous["properties"] == {"tags": ["security", "call"], "security-severity": "9.5"}
    assert rules[2]["properties"] == {"tags": ["zip"]}


def test_every_rule_can_be_described() -> None:
    """A log that breaks every rule of the catalogue is valid, and short enough for code scanning's limits."""
    whole = report(*(finding(rule.id, rule.severity) for rule in catalogue().values()))
    rules = run_of(whole)["tool"]["driver"]["rules"]
    assert len(rules) > 100
    for rule in rules:
        assert len(rule["name"]) <= 255
        assert len(rule["shortDescription"]["text"]) <= 1024
        assert len(rule["fullDescription"]["text"]) <= 1024
        assert len(rule["properties"]["tags"]) <= 10
        score = rule["properties"].get("security-severity")
        assert (score is None) == (catalogue()[rule["id"]].severity is Severity.INFO)


@pytest.mark.parametrize(
    ("severity", "level"),
    list(zip(Severity, ("note", "warning", "warning", "error", "error"), strict=True)),
)
def test_levels(severity: Severity, level: str) -> None:
    """INFO is a note, what is unknown or suspicious a warning, what is unsafe an error."""
    (result,) = run_of(report(finding(severity=severity)))["results"]
    assert result["level"] == level
    assert result["properties"]["severity"] == severity.label


def test_a_result_says_everything() -> None:
    """A result has rule, message with place and evidence, verdict of its file and confidence."""
    found = finding(member="archive/data.pkl", offset=12)
    (result,) = run_of(report(found))["results"]
    assert result["ruleId"] == "call.dangerous"
    assert result["ruleIndex"] == 0
    assert result["kind"] == "fail"
    assert result["message"]["text"] == (
        "calls posix.system, which runs shell commands (archive/data.pkl, byte 12): posix.system('true')"
    )
    assert result["properties"] == {
        "verdict": "unsafe",
        "severity": "critical",
        "confidence": "high",
        "evidence": "posix.system('true')",
    }


def test_a_place_in_the_file() -> None:
    """An offset in the file itself is a region; there is a line, without which code scanning shows nothing."""
    (result,) = run_of(report(finding(offset=12)))["results"]
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "models/x.ckpt", "uriBaseId": "%SRCROOT%", "index": 0},
        "region": {"startLine": 1, "byteOffset": 12},
    }
    assert "logicalLocations" not in location


def test_a_place_in_a_member() -> None:
    """An archive's member is a logical location; the offset in it is no offset in the file."""
    (result,) = run_of(report(finding(member="archive/data.pkl", offset=12)))["results"]
    (location,) = result["locations"]
    assert location["logicalLocations"] == [
        {"name": "archive/data.pkl", "fullyQualifiedName": "models/x.ckpt!archive/data.pkl", "kind": "member"}
    ]
    assert location["physicalLocation"]["region"] == {"startLine": 1}
    assert location["properties"] == {"offset": 12}


def test_a_place_in_a_folder() -> None:
    """A file of a diffusers folder is the artifact, not a member."""
    inside = finding(member="unet/model.bin!archive/data.pkl", offset=1)
    beside = finding("folder.link", Severity.MEDIUM, member="vae")
    run = run_of(report(inside, beside, path="pipe", container="diffusers-folder"))
    first, second = (result["locations"][0] for result in run["results"])
    assert first["physicalLocation"]["artifactLocation"] == {"uri": "pipe/unet/model.bin", "uriBaseId": "%SRCROOT%"}
    assert first["logicalLocations"][0]["name"] == "archive/data.pkl"
    assert second["physicalLocation"]["artifactLocation"]["uri"] == "pipe/vae"
    assert "logicalLocations" not in second


def test_every_file_is_an_artifact_with_its_verdict() -> None:
    """Files without a finding are in the log, too, each once, with verdict and digest."""
    safe = report(path="a.safetensors", container="safetensors", digest=Digest("ab" * 32))
    run = run_of(safe, report(finding()), safe)
    first, second = run["artifacts"]
    assert first["location"]["uri"] == "a.safetensors"
    assert first["hashes"] == {"sha-256": "ab" * 32}
    assert first["properties"] == {"verdict": "safe", "container": "safetensors", "complete": True}
    assert "hashes" not in second
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["index"] == 1


def test_what_was_not_examined_is_a_notification() -> None:
    """What was skipped is said by the invocation with its place, once, and is no failure of the scan."""
    low = finding("container.not-examined", Severity.LOW, message="an ONNX model, which is not examined")
    skipped = (Skipped("an ONNX model, which is not examined"), Skipped("it is too deep", "a/b.zip"))
    (invocation,) = run_of(report(low, skipped=skipped))["invocations"]
    assert invocation["executionSuccessful"] is True
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["level"] == "warning"
    assert notification["message"]["text"] == "models/x.ckpt: a/b.zip: not examined: it is too deep"
    assert notification["locations"][0]["logicalLocations"][0]["name"] == "a/b.zip"


@pytest.mark.parametrize("rule", ["source.not-found", "source.unreadable", "internal.error"])
def test_what_failed_is_no_result(rule: str) -> None:
    """A file that could not be examined makes the execution unsuccessful, and is an artifact of verdict unknown."""
    missing = report(finding(rule, Severity.LOW, message="no such file"), skipped=(Skipped("no such file"),))
    run = run_of(missing, report(path="y.pt"))
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["level"] == "error"
    assert notification["descriptor"] == {"id": rule}
    assert run["results"] == []
    assert run["artifacts"][0]["properties"]["verdict"] == "unknown"


def test_nothing_to_scan_is_not_successful() -> None:
    """A log about no file is valid and says that nothing was done."""
    run = run_of()
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["results"] == run["artifacts"] == []
    assert run["properties"]["verdict"] is None


def test_fingerprints_outlive_moved_bytes() -> None:
    """The same finding has the same fingerprint wherever its bytes lie, and findings that differ have others."""

    def prints(*findings: Finding, path: str = "models/x.ckpt") -> list[str]:
        results = run_of(report(*findings, path=path))["results"]
        return [result["partialFingerprints"]["primaryLocationLineHash"] for result in results]

    assert prints(finding(offset=12)) == prints(finding(offset=99))
    different = [finding(), finding(evidence="b"), finding(member="m"), finding("zip.crc")]
    assert len({*prints(*different), *prints(finding(), path="y.ckpt")}) == 5
    first, second = prints(finding(offset=1), finding(offset=2))
    assert first.endswith(":1")
    assert second == first[:-1] + "2"


def test_more_results_than_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more results than code scanning accepts the mildest are left out, and that is said."""
    monkeypatch.setattr(sarif, "MAX_RESULTS", 2)
    run = run_of(report(finding("zip.no-crc", Severity.INFO), finding(), finding("zip.crc", Severity.LOW)))
    assert [result["ruleId"] for result in run["results"]] == ["call.dangerous", "zip.crc"]
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert "1 of the mildest results" in notification["message"]["text"]
    assert run["properties"]["verdict"] == "unsafe"


def test_the_largest_log_can_be_uploaded() -> None:
    """As many results as code scanning accepts stay under its 10 MB when compressed."""
    files = [
        report(*(finding(offset=n, member="archive/data.pkl") for n in range(40)), path=f"models/{number}.ckpt")
        for number in range(sarif.MAX_RESULTS // 40)
    ]
    log = sarif_log([scan_dict(each) for each in files])
    assert len(log["runs"][0]["results"]) == sarif.MAX_RESULTS
    assert len(gzip.compress(dumps(log, indent=True).encode(), 6)) < 10_000_000


def test_text_of_files_makes_no_links_and_no_placeholders() -> None:
    """Neither a link nor a placeholder of SARIF's messages can come from a file."""
    (result,) = run_of(report(finding(evidence="[click](http://x) {0} {'a': 1}\x1b[31m\n")))["results"]
    text = result["message"]["text"]
    assert "](" not in text
    assert "{{0}} {'a': 1}" in text
    assert text.isprintable()


PATHS = [
    ("models/x.ckpt", "models/x.ckpt"),
    ("./a b#c?.pt", "a%20b%23c%3F.pt"),
    ("100%/é:x.pt", "100%25/%C3%A9%3Ax.pt"),
    ("\udcff.pt", "%FF.pt"),
    ("a/../b.pt", "b.pt"),
    ("-", "stdin"),
]


@pytest.mark.parametrize(("path", "uri"), PATHS)
@pytest.mark.skipif(os.name != "posix", reason="paths of POSIX")
def test_paths_become_relative_uris(path: str, uri: str) -> None:
    """A path below the working folder is a relative, percent-encoded URI, whatever characters and bytes it has."""
    assert path_uri(path) == uri
    assert URI.fullmatch(uri)


def test_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path below the working folder becomes relative; one elsewhere is a file URI without a base."""
    monkeypatch.chdir(tmp_path)
    assert path_uri(str(tmp_path / "a" / "b.pt")) == "a/b.pt"
    outside = str(tmp_path.parent / "b c.pt")
    assert path_uri(outside).startswith("file:///")
    assert path_uri(outside).endswith("/b%20c.pt")
    (result,) = run_of(report(finding(), path=outside))["results"]
    assert "uriBaseId" not in result["locations"][0]["physicalLocation"]["artifactLocation"]


def test_addresses_stay_addresses() -> None:
    """What lies on the network has its address as URI, and no base."""
    for path, uri in (
        ("hf://org/m@0a1b/unet/a b.pt", "hf://org/m@0a1b/unet/a%20b.pt"),
        ("https://127.0.0.1:80/x:y.pt", "https://127.0.0.1:80/x%3Ay.pt"),
    ):
        (result,) = run_of(report(finding(), path=path))["results"]
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert (place["uri"], "uriBaseId" in place) == (uri, False)


TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
PATH = TEXT.filter(lambda text: text and "\0" not in text and not re.search("[\ud800-\udc7f\udd00-\udfff]", text))
FINDINGS = st.builds(
    Finding,
    rule=st.sampled_from([*catalogue(), "new.rule"]),
    severity=st.sampled_from(Severity),
    confidence=st.sampled_from(Confidence),
    message=TEXT,
    location=st.builds(Location, st.none() | TEXT, st.none() | st.integers(-1, 1 << 70)),
    evidence=st.none() | TEXT,
)
REPORTS = st.builds(
    ScanReport,
    path=PATH,
    container=st.sampled_from([None, "torch-zip", "diffusers-folder"]),
    verdict=st.sampled_from(Verdict),
    coverage=st.builds(
        Coverage, st.booleans(), st.lists(st.builds(Skipped, TEXT, st.none() | TEXT), max_size=3).map(tuple)
    ),
    findings=st.lists(FINDINGS, max_size=4).map(tuple),
    policy_version=st.just("1"),
)


@pytest.mark.skipif(os.name != "posix", reason="names of files are text")
def test_a_name_that_no_file_can_have_is_encoded_too() -> None:
    """A member of a folder may be called anything by the file that names it, by characters that are none as well."""
    assert path_uri("a/\udcff") == "a/%FF"
    assert path_uri("a/\ud800") == "a/%ED%A0%80"


@given(st.lists(REPORTS, max_size=4))
def test_any_report_makes_a_valid_log(reports: list[ScanReport]) -> None:
    """Whatever names and texts files hold, the log is valid, its paths are URIs and its texts can be shown."""
    run = run_of(*reports)
    for result in run["results"]:
        (location,) = result["locations"]
        uri = location["physicalLocation"]["artifactLocation"]["uri"]
        assert URI.fullmatch(uri), uri
        assert result["message"]["text"].isprintable()
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_the_sink_writes_one_log(capsys: pytest.CaptureFixture[str]) -> None:
    """With the format sarif the sink prints one document of all reports, at the end."""
    with Sink("sarif") as sink:
        assert sink.machine
        sink.add(scan_dict(report(finding())))
        sink.add(scan_dict(report(path="y.pt")))
        assert capsys.readouterr().out == ""
        sink.document(SCAN_SCHEMA, "reports", complete=True)
    log = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(log)
    assert len(log["runs"][0]["artifacts"]) == 2
