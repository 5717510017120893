"""``modelhub explain``: what a rule means, why it matters and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from modelhub.commands import ExitCode, reporting
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.scan.catalogue import Rule


@click.command("explain")
@click.argument("names", metavar="[RULE]...", nargs=-1)
@reporting
def command(*, names: Sequence[str], sink: Sink) -> int:
    """Explain each RULE: what it means, why it matters, an example, its source and what to do.

    A RULE is the id that a finding ends with, such as pickle.dotted-name, or the first part of several, such as zip.
    Without one, all rules are listed.
    """
    rules = _rules(names)
    if sink.machine or not names:
        list_rules(sink, rules)
    else:
        from modelhub.report.rules import explained_lines

        for number, rule in enumerate(rules):
            sink.lines([(), *explained_lines(rule)] if number else explained_lines(rule))
    return ExitCode.OK


def list_rules(sink: Sink, rules: Iterable[Rule] | None = None) -> None:
    """Answer with *rules* (default: all): a line each for people, all of their fields for programs."""
    from modelhub.report.rules import RULES_SCHEMA, rule_lines, rules_dict

    if sink.format == "sarif":
        raise click.UsageError("Rules alone cannot be told as SARIF; --format json has them.")
    if not sink.machine:
        sink.lines(rule_lines(rules))
        return
    for rule in rules_dict(rules)["rules"]:
        sink.add(rule)
    sink.document(RULES_SCHEMA, "rules")


def _rules(names: Sequence[str]) -> list[Rule]:
    """The rules that *names* lead to, each once."""
    from modelhub.scan.catalogue import catalogue

    known = catalogue()
    if not names:
        return list(known.values())
    found: dict[str, Rule] = {}
    for name in names:
        wanted = name.strip().strip("[]").lower()  # as it stands in a finding: [zip.crc]
        matching = {key: rule for key, rule in known.items() if wanted in (key, rule.subject)}
        if not matching:
            raise click.UsageError(f"There is no rule '{name}'.{_meant(wanted, known)}")
        found |= matching
    return list(found.values())


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else " 'modelhub explain' lists all rules."
