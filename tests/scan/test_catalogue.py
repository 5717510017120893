"""The catalogue of rules is complete, true, and what the documentation says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelhub
from modelhub import verbs
from modelhub.samples.library import build_sample_library
from modelhub.scan import ScanReport, Verdict, load_policy
from modelhub.scan.catalogue import catalogue, code, markdown, subjects
from modelhub.scan.findings import Severity
from tests import corpus

ROOT = Path(modelhub.__file__).parent
OUTSIDE = {"db", "identify", "convert", "report", "samples", "source"}
"""Rooms that state no rules; all others are searched for them."""
RULE = re.compile(r"[a-z]+\.[a-z0-9]+(?:-[a-z0-9]+)*")
NOT_RULES = {"startswith", "endswith", "import_module", "open", "join", "get", "partition", "_is_call_of", "fullmatch"}
"""Functions whose first argument may look like a rule's id and is none."""


def _stated(path: Path) -> Iterator[str]:
    """Ids in one module: what is handed on as a first argument or as ``rule``, or kept under a name about rules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name not in NOT_RULES:
                given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "rule")]
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if "rule" in name.lower():
                given = [value]
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=name), *_])], value=value) if "rule" in name.lower():
                given = [value]
            case ast.FunctionDef(name=name) if "rule" in name:
                given = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value]
            case _:
                continue
        for value in given:
            yield from _ids(value)


def _ids(value: ast.expr) -> Iterator[str]:
    """The ids that an expression can be: a text, one of two, or a table's values."""
    match value:
        case ast.Constant(value=str(text)) if RULE.fullmatch(text):
            yield text
        case ast.IfExp(body=first, orelse=second):
            yield from _ids(first)
            yield from _ids(second)
        case ast.Dict(values=values) | ast.Tuple(elts=values):
            for each in values:
                yield from _ids(each)


def stated_rules() -> dict[str, str]:
    """Every id that the code or the policy states, with where."""
    stated = dict.fromkeys(load_policy().anomalies, "policy.toml")
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] not in OUTSIDE and path.stem != "catalogue":
            stated |= dict.fromkeys(_stated(path), path.name)
    known = subjects().keys() | {rule.partition(".")[0] for rule in load_policy().anomalies}
    return {rule: where for rule, where in stated.items() if rule.partition(".")[0] in known}


def test_every_rule_that_is_stated_is_explained() -> None:
    """Each id that the code or the policy can put into a finding is in the catalogue."""
    stated = stated_rules()
    assert len(stated) > 100
    assert {rule: where for rule, where in stated.items() if rule not in catalogue()} == {}


def test_every_subject_of_a_rule_is_known() -> None:
    """No code states an oddity or finding about a subject of which the catalogue says nothing."""
    found = set()
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'\b(?:Anomaly|Finding)\(\s*f?"([a-z]+)\.', text))
    assert len(found) > 8
    assert found <= subjects().keys()


def test_nothing_is_explained_that_cannot_occur() -> None:
    """Each rule of the catalogue is named by some code or by the policy."""
    files = [path for path in (*ROOT.rglob("*.py"), *(ROOT / "scan").glob("*.toml")) if path.stem != "catalogue"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [rule for rule in catalogue() if f'"{rule}"' not in text] == []


@pytest.mark.parametrize("rule", list(catalogue().values()), ids=lambda rule: rule.id)
def test_every_rule_says_all_there_is_to_say(rule) -> None:
    """Each rule has its texts, a source, a sensible severity, and lengths that viewers of SARIF show in full."""
    assert RULE.fullmatch(rule.id)
    assert rule.subject in subjects()
    assert 5 < len(rule.title) <= 60
    assert not rule.title.endswith(".")
    for text in (rule.means, rule.why, rule.next):
        assert text.endswith((".", ")", "-vv."))
        assert "\n" not in text
    assert len(f"{rule.means} {rule.why}") < 1024
    assert rule.example
    assert rule.sources
    assert rule.at_least <= rule.severity <= rule.up_to


def test_a_severity_stands_in_one_place() -> None:
    """The severity of what a reader states is the policy's; the catalogue has none of its own for it."""
    policy = load_policy()
    for rule in catalogue().values():
        if rule.id in policy.anomalies:
            assert rule.severity is rule.at_least is rule.up_to is policy.anomalies[rule.id]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[ScanReport]:
    """The reports on all samples and on the whole corpus."""
    folder = tmp_path_factory.mktemp("files")
    build_sample_library(folder / "samples")
    paths = [path for path in (folder / "samples").rglob("*") if path.is_file()]
    paths += [Path(file.path) for file in corpus.build(folder / "corpus")]
    return [verbs.scan(path, digest=False) for path in paths]


def test_what_findings_say_is_explained(reports: list[ScanReport]) -> None:
    """The findings on samples and corpus name catalogued rules only, with severities that the rule has."""
    findings = [finding for report in reports for finding in report.findings]
    assert len({finding.rule for finding in findings}) > 40
    unknown = {finding.rule for finding in findings} - catalogue().keys()
    assert not unknown
    for finding in findings:
        rule = catalogue()[finding.rule]
        assert rule.at_least <= finding.severity <= rule.up_to, finding


def test_verdicts_follow_from_the_catalogue(reports: list[ScanReport]) -> None:
    """A rule whose severity is fixed forces the verdict that the catalogue names."""
    assert {report.verdict for report in reports} == set(Verdict)
    for report in reports:
        for finding in report.findings:
            rule = catalogue()[finding.rule]
            if rule.at_least is rule.up_to and rule.severity > Severity.INFO:
                assert report.verdict >= Verdict[rule.verdict.upper()]


def test_the_page_of_rules_is_the_catalogue() -> None:
    """docs/rules.md is what ``python -m modelhub.scan.catalogue`` writes."""
    page = (ROOT.parent / "docs" / "rules.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m modelhub.scan.catalogue > docs/rules.md"
    done = subprocess.run(
        [sys.executable, "-m", "modelhub.scan.catalogue"], capture_output=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.decode().replace("\r\n", "\n") == page


def test_the_page_links_to_each_rule_once() -> None:
    """Each rule has one row in the table, and one section that the row's link leads to."""
    page = markdown()
    for rule in catalogue():
        assert page.count(f"\n### {rule}\n") == 1
        assert page.count(f"[`{rule}`](#{rule.replace('.', '')})") == 1


@pytest.mark.parametrize(
    ("text", "shown"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("``", "``` `` ```")]
)
def test_code_in_markdown(text: str, shown: str) -> None:
    """Code stays code whatever backticks it has."""
    assert code(text) == shown
