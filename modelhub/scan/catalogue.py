"""Every rule that a finding can name: what it means, why it matters, and what to do about it.

The texts stand in ``catalogue.toml``; the severity of what readers state stands in ``policy.toml`` alone.
``python -m modelhub.scan.catalogue > docs/rules.md`` writes the page of all rules.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from modelhub.scan.findings import Severity
from modelhub.scan.policy_file import load_policy


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules whose ids begin with ``id.`` are about."""

    id: str
    title: str
    about: str
    next: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``severity`` is that of most of its findings; it lies between ``at_least`` and ``up_to`` in all."""

    id: str
    title: str
    means: str
    why: str
    severity: Severity
    at_least: Severity
    up_to: Severity
    example: str
    sources: tuple[str, ...]
    next: str

    @property
    def subject(self) -> str:
        """The part of the id that says what it is about."""
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """The id as one word: ``ZipDuplicateMember``."""
        return "".join(part.capitalize() for part in self.id.replace(".", "-").split("-"))

    @property
    def verdict(self) -> str:
        """The verdict that a finding of this rule forces: ``"unsafe"``, or ``"suspicious to unsafe"``."""
        return _span(self.at_least.verdict.label, self.up_to.verdict.label)

    @property
    def severities(self) -> str:
        """The severities that its findings have: ``"high"``, or ``"medium to critical"``."""
        return _span(self.at_least.label, self.up_to.label)


def _span(mildest: str, worst: str) -> str:
    return mildest if mildest == worst else f"{mildest} to {worst}"


@cache
def catalogue() -> Mapping[str, Rule]:
    """Every rule by its id, in the catalogue's order."""
    return _load()[1]


@cache
def subjects() -> Mapping[str, Subject]:
    """What rules are about, by the first part of their ids, in the catalogue's order."""
    return _load()[0]


@cache
def _load() -> tuple[dict[str, Subject], dict[str, Rule]]:
    with open(os.path.join(os.path.dirname(__file__), "catalogue.toml"), "rb") as file:
        data = tomllib.load(file)
    about = {
        key: Subject(key, entry["title"], entry["about"], entry["next"]) for key, entry in data["subjects"].items()
    }
    policy = load_policy()
    rules = {}
    for key, entry in data["rules"].items():
        severity = Severity[entry["severity"].upper()] if "severity" in entry else policy.severity_of(key)
        rules[key] = Rule(
            id=key,
            title=entry["title"],
            means=entry["means"],
            why=entry["why"],
            severity=severity,
            at_least=Severity[entry.get("at_least", severity.label).upper()],
            up_to=Severity[entry.get("up_to", severity.label).upper()],
            example=entry["example"],
            sources=tuple(entry["sources"]),
            next=entry.get("next", about[key.partition(".")[0]].next),
        )
    return about, rules


def markdown() -> str:
    """The page of all rules."""
    return "\n".join(_page()) + "\n"


_HEAD = """\
# Rules

Every finding of `modelhub scan` names a rule. `modelhub explain RULE` prints what stands here about it; rule ids never
change their meaning. A finding's severity forces the file's verdict: `info` none, `low` unknown, `medium` suspicious,
`high` and `critical` unsafe.

This page is made by `python -m modelhub.scan.catalogue > docs/rules.md` from `modelhub/scan/catalogue.toml`, and from
`modelhub/scan/policy.toml`, where the severities of what the readers find odd stand.

## Allowing names of your own

`modelhub scan --policy FILE` adds names to those that a checkpoint may use: exact ones, in a role, and only such as
modelhub does not know. It cannot weaken what is denied. Each report then says so: `policy.extended`, and a policy
version that names the file.

```toml
[[allow]]
module = "ourtrainer.state"     # exactly this module
names = ["TrainState"]          # exactly these names in it
call = "empty"                  # what its calls must look like; absent: it may only be referred to
build = "attributes"            # what its states must look like; absent: it may not be given one
reason = "our own trainer"
```

Contracts of calls: CALLS. Of states: STATES."""


def _page() -> Iterator[str]:
    from modelhub.scan.contracts import CALLS, STATES

    def listed(names: Mapping[str, object]) -> str:
        return ", ".join(f"`{name}`" for name in sorted(names))

    yield _HEAD.replace("CALLS", listed(CALLS)).replace("STATES", listed(STATES))
    yield ""
    yield "| rule | severity | verdict | title |"
    yield "|---|---|---|---|"
    for rule in catalogue().values():
        yield f"| [`{rule.id}`](#{_anchor(rule.id)}) | {rule.severities} | {rule.verdict} | {rule.title} |"
    for subject in subjects().values():
        members = [rule for rule in catalogue().values() if rule.subject == subject.id]
        if members:
            yield f"\n## {subject.title}\n\n{subject.about}"
        for rule in members:
            yield from _section(rule)


def _section(rule: Rule) -> Iterator[str]:
    yield f"\n### {rule.id}\n"
    yield f"**{rule.title}** ({rule.severities}: {rule.verdict})\n"
    yield f"{rule.means} {rule.why}\n"
    yield f"* Example: {code(rule.example)}"
    yield f"* What to do: {rule.next}"
    yield f"* Source: {'; '.join(rule.sources)}"


def _anchor(rule: str) -> str:
    """The fragment by which GitHub links to a heading: lower case, without dots."""
    return rule.replace(".", "")


def code(text: str) -> str:
    """*text* as Markdown code, whatever backticks it has."""
    fence = "`" * (1 + max((len(run) for run in _runs(text)), default=0))
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def _runs(text: str) -> list[str]:
    return [run for run in "".join(char if char == "`" else " " for char in text).split() if run]


if __name__ == "__main__":
    sys.stdout.write(markdown())
