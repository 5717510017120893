"""The scanner's rules, listed and explained."""

from __future__ import annotations

import json

from modelhub.report.json import dumps
from modelhub.report.plain import render_line
from modelhub.report.rules import RULES_SCHEMA, explained_lines, rule_lines, rules_dict
from modelhub.scan.catalogue import catalogue


def test_each_rule_has_a_line() -> None:
    """The list has one line for each rule: id, severity and title."""
    lines = [render_line(spans) for spans in rule_lines()]
    assert [text.split()[0] for text in lines] == list(catalogue())
    assert [text.split()[1] for text in lines] == [rule.severity.label for rule in catalogue().values()]


def test_the_document_has_every_rule() -> None:
    """Programs get every rule with all its fields."""
    document = json.loads(dumps(rules_dict()))
    assert document["schema"] == RULES_SCHEMA
    assert [rule["id"] for rule in document["rules"]] == list(catalogue())
    fields = {"id", "title", "severity", "at_least", "up_to", "verdict", "means", "why", "example", "next", "sources"}
    assert all(rule.keys() == fields for rule in document["rules"])


def test_an_explanation_has_all_texts() -> None:
    """An explanation leads with id and title and has every text of the rule."""
    rule = catalogue()["call.unfamiliar"]
    text = "\n".join(render_line(spans) for spans in explained_lines(rule))
    assert text.startswith(f"{rule.id}  {rule.title}\n")
    for part in (
        "medium to high",
        "suspicious to unsafe",
        rule.means,
        rule.why,
        rule.example,
        rule.next,
        *rule.sources,
    ):
        assert part in text
