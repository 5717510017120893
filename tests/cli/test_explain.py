"""modelhub explain."""

from __future__ import annotations

import pytest

from modelhub.scan.catalogue import catalogue
from tests.cli.run import modelhub


def test_a_rule_is_explained() -> None:
    """``explain RULE`` prints what the rule means, why, an example, the next step and its source, and ends with 0."""
    ran = modelhub("explain", "pickle.dotted-name")
    rule = catalogue()["pickle.dotted-name"]
    assert (ran.code, ran.err) == (0, "")
    for text in (rule.id, rule.title, rule.means, rule.why, rule.example, rule.next):
        assert text in ran.out


@pytest.mark.parametrize("spelled", ["[zip.crc]", "ZIP.CRC", " zip.crc "])
def test_a_rule_as_findings_spell_it(spelled: str) -> None:
    """A rule may be pasted as a finding prints it."""
    assert modelhub("explain", spelled).out == modelhub("explain", "zip.crc").out


def test_a_subject_stands_for_its_rules() -> None:
    """The first part of ids explains all rules that begin with it, each once."""
    ran = modelhub("explain", "--format", "json", "legacy", "legacy.magic", "zip.crc")
    names = [rule["id"] for rule in ran.json()["rules"]]
    assert names == [*(key for key in catalogue() if key.startswith("legacy.")), "zip.crc"]


def test_without_a_rule_all_are_listed() -> None:
    """``explain`` alone lists every rule on a line of its own."""
    lines = modelhub("explain").out.splitlines()
    assert [text.split()[0] for text in lines] == list(catalogue())


def test_for_programs() -> None:
    """json is one document with its schema, jsonl one rule per line, and both say the same."""
    document = modelhub("explain", "--format", "json").json()
    assert document["schema"] == "modelhub.rules/1"
    assert modelhub("explain", "--format", "jsonl").json_lines() == document["rules"]


@pytest.mark.parametrize(("wrong", "meant"), [("zip.crcs", "'zip.crc'"), ("nothing like it", "lists all rules")])
def test_an_unknown_rule(wrong: str, meant: str) -> None:
    """A rule that does not exist is wrong usage, and the nearest one is named."""
    ran = modelhub("explain", wrong)
    assert ran.code == 2
    assert ran.out == ""
    assert f"There is no rule '{wrong}'" in ran.err
    assert meant in ran.err


@pytest.mark.parametrize("format", ["human", "json", "jsonl"])
def test_scan_lists_the_same_rules(format: str) -> None:
    """``scan --list-rules`` answers as ``explain`` does without a rule."""
    listed = modelhub("scan", "--list-rules", "--format", format)
    assert listed.code == 0
    assert listed.out == modelhub("explain", "--format", format).out


def test_rules_are_no_sarif() -> None:
    """A list of rules cannot be a SARIF log, and that is said."""
    ran = modelhub("scan", "--list-rules", "--format", "sarif")
    assert (ran.code, ran.out) == (2, "")
    assert "SARIF" in ran.err
