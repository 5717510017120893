"""The scanner's rules for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from modelhub.report.plain import Line, Span, fields, line
from modelhub.report.scanned import SEVERITY_STYLE

if TYPE_CHECKING:
    from modelhub.scan.catalogue import Rule

RULES_SCHEMA = "modelhub.rules/1"


def rule_lines(rules: Iterable[Rule] | None = None) -> Iterator[Line]:
    """One line for each of *rules* (default: all): id, severity and title."""
    listed = _all(rules)
    width = max((len(rule.id) for rule in listed), default=0)
    for rule in listed:
        yield line(Span(f"{rule.id:<{width}}", "bold"), "  ", _severity(rule, 8), "  ", rule.title)


def explained_lines(rule: Rule) -> Iterator[Line]:
    """All that is to be said about one rule."""
    yield line(Span(rule.id, "bold"), "  ", rule.title)
    yield from fields(
        (
            ("severity", f"{rule.severities} (verdict: {rule.verdict})"),
            ("means", rule.means),
            ("why", rule.why),
            ("example", rule.example),
            ("next", rule.next),
            ("source", "; ".join(rule.sources)),
        )
    )


def rule_dict(rule: Rule) -> dict[str, Any]:
    """One rule; most of its findings have ``severity``, all of them at least ``at_least`` and at most ``up_to``."""
    return {
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity.label,
        "at_least": rule.at_least.label,
        "up_to": rule.up_to.label,
        "verdict": rule.severity.verdict.label,
        "means": rule.means,
        "why": rule.why,
        "example": rule.example,
        "next": rule.next,
        "sources": list(rule.sources),
    }


def rules_dict(rules: Iterable[Rule] | None = None) -> dict[str, Any]:
    """The document of *rules* (default: all), ``{"schema": ..., "rules": [...]}``."""
    return {"schema": RULES_SCHEMA, "rules": [rule_dict(rule) for rule in _all(rules)]}


def _all(rules: Iterable[Rule] | None) -> list[Rule]:
    if rules is not None:
        return list(rules)
    from modelhub.scan.catalogue import catalogue

    return list(catalogue().values())


def _severity(rule: Rule, width: int) -> Span:
    label = rule.severity.label
    return Span(f"{label:<{width}}", SEVERITY_STYLE[label])
