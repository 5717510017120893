"""What fickling says of the same pickles: ``opinion.objects``, ``opinion.discounted``, ``opinion.failed``.

fickling objects to every import from outside Python's standard library and to every call of one, tensor checkpoints
included. So its objections are held against what modelhub's own machine has seen of the same bytes:

* what is **proven** in its role here is discounted;
* what is **judged** here already, by a finding of its own, is not judged again because fickling knows no third-party
  library; but where fickling knows the very name as dangerous, it is heard;
* what was **not seen** here is heard: the two machines read the program differently.

An objection that is heard makes the verdict at least suspicious. Nothing that fickling says makes a verdict better, and
its failure is only noted. It is asked in a child process (:mod:`modelhub.scan.fickling_child`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import replace

from modelhub.container import Container
from modelhub.pickles import Global
from modelhub.scan.fickling_child import TIMEOUT, Answer, Question, ask, printable, questions_about
from modelhub.scan.findings import Confidence, Finding, Location, ScanReport, Severity
from modelhub.scan.policy import Policy
from modelhub.scan.policy_file import load_policy
from modelhub.scan.rules.names import canonical, legacy_class

_BLANKET = 3
"""fickling's severity (``LIKELY_UNSAFE``) up to which it objects to a whole class of things, not to a known danger."""

_SHOWN = 5
_EVIDENCE = 300
_VARIABLE = re.compile(r"_var\d+: ")
_CALLED = re.compile(r"([\w.]+)\(")
_ADDS_ITEMS = re.compile(r"_var\d+\.update")
_COUNT = re.compile(r"(?:GET/PUT ratio|GET count|DUP count): ")
_PERSISTENT = "UNPICKLER.persistent_load"
_NEW = ".__new__"

_Name = tuple[str, str]
"""Module and name of an import as the pickle spells them."""


class _Standing(enum.IntEnum):
    """What is known here of what fickling objects to; the worst of several is ``max()``."""

    PROVEN = 0
    JUDGED = 1
    UNSEEN = 2


def second_opinion(
    container: Container, report: ScanReport, *, timeout: float = TIMEOUT, policy: Policy | None = None
) -> ScanReport:
    """*report* on *container*, still open, with what fickling makes of its pickles within *timeout* seconds.

    *policy* is the one that *report* was made with (default: modelhub's own). Never raises; a report on a file without
    pickles comes back as it is.
    """
    questions = questions_about(container)
    if not questions:
        return report
    policy = policy or load_policy()
    added: list[Finding] = []
    for question, answer in zip(questions, ask("opinion", questions, timeout), strict=True):
        if "failed" in answer:
            why = printable(str(answer["failed"]))
            message = f"fickling gave no second opinion: {why}"
            added.append(Finding("opinion.failed", Severity.INFO, Confidence.HIGH, message, Location(question.member)))
        else:
            added += _Hearing(question, report, policy, answer).findings()
    findings = sorted((*report.findings, *added), key=lambda finding: -finding.severity)
    verdict = max([report.verdict, *(finding.severity.verdict for finding in added)])
    return replace(report, findings=tuple(findings), verdict=verdict)


class _Hearing:
    """fickling's objections to one program, held against its trace and the findings about it."""

    def __init__(self, question: Question, report: ScanReport, policy: Policy, answer: Answer) -> None:
        self.member = question.member
        self.origin = question.program.origin
        self.trace = question.program.trace
        self.policy = policy
        self.objections: list[tuple[int, str | None, str]] = answer["objections"]
        own = [f for f in report.findings if f.location.member == question.member and f.severity > Severity.INFO]
        self.worst = max((finding.severity for finding in own), default=Severity.INFO)
        self.rules = {finding.rule for finding in own}
        self.seen: dict[_Name, Global] = {}
        for imported in self.trace.imports:
            self.seen.setdefault((imported.module, imported.name), imported)
        self.told: set[_Name] = {(module, name) for module, name in answer["imports"]}
        self.spelled = {f"from {module} import {name}": (module, name) for module, name in self.told}
        self.called: dict[str, list[_Name]] = {}
        for pair in self.told | self.seen.keys():
            self.called.setdefault(pair[1], []).append(pair)
        places = {finding.location.offset for finding in own}
        self.misused = {
            (callee.module, callee.name)
            for call in (self.trace.calls if own else ())
            if type(callee := legacy_class(call.callee)) is Global and call.offset - self.origin in places
        }

    def findings(self) -> Iterator[Finding]:
        """The first objections that are heard, and one finding for all that are discounted."""
        unseen = {text: name for text, name in self.spelled.items() if self._of_name(name) is _Standing.UNSEEN}
        denied = {text for text, name in unseen.items() if self.policy.denies(*name) is not None}
        heard = dict.fromkeys(
            [*sorted(denied), *sorted(unseen.keys() - denied)], _DIFFERENTLY if self.trace.stopped else _BEYOND
        )
        discounted: dict[_Standing, list[str]] = {_Standing.PROVEN: [], _Standing.JUDGED: []}
        for severity, subject, message in self.objections:
            standing = self._of_subject(subject)
            adds = severity > _BLANKET or (subject is not None and self.worst >= Severity.MEDIUM)
            if standing is _Standing.UNSEEN or (standing is _Standing.JUDGED and adds):
                heard.setdefault(subject or message, f"fickling objects: {message}")
            else:
                discounted[standing].append(subject or message)
        for text, message in list(heard.items())[:_SHOWN]:
            severity = Severity.HIGH if text in denied else Severity.MEDIUM
            yield self._finding("opinion.objects", severity, message, text)
        if len(heard) > _SHOWN:
            message = f"fickling objects to {len(heard) - _SHOWN} more"
            yield self._finding("opinion.objects", Severity.MEDIUM, message, "; ".join(list(heard)[_SHOWN:]))
        for standing, texts in discounted.items():
            if texts:
                evidence = "; ".join(dict.fromkeys(texts))
                yield self._finding("opinion.discounted", Severity.INFO, _DISCOUNTED[standing], evidence)

    def _of_subject(self, subject: str | None) -> _Standing:
        """The standing of what an objection is about; ``None`` is the program as such."""
        names = self._names(subject)
        if names:
            return max(map(self._of_name, names))
        if subject is None or subject.isdecimal() or _COUNT.match(subject):
            return self._of_whole()
        made = _VARIABLE.match(subject)
        call = _CALLED.match(subject, made.end() if made else 0)
        if call is None:  # a variable whose value is no call is something that was made and not used
            return self._of_whole() if made else _Standing.UNSEEN
        if call[1] == _PERSISTENT:
            return self._unless("persistent.unknown", "pickle.persid")
        if _ADDS_ITEMS.fullmatch(call[1]):
            return self._unless("items.misused", "items.foreign")
        return _Standing.UNSEEN

    def _names(self, subject: str | None) -> list[_Name]:
        """The imports that an objection is about: the one it spells, or all whose name it calls."""
        if subject is None:
            return []
        if subject in self.spelled:
            return [self.spelled[subject]]
        made = _VARIABLE.match(subject)
        call = _CALLED.match(subject, made.end() if made else 0)
        return self.called.get(call[1].removesuffix(_NEW), []) if call else []

    def _of_name(self, name: _Name) -> _Standing:
        """The standing of an import. One that follows where the trace broke off cannot have been seen, and only counts
        as such when it is not one that tensors need."""
        imported = self.seen.get(name)
        if imported is None:
            expected = not self.trace.stopped and self.policy.allows(*name) is not None
            return _Standing.JUDGED if expected else _Standing.UNSEEN
        if self.worst is Severity.INFO:
            return _Standing.PROVEN
        allowed = imported.literal and self.policy.allows(*canonical(imported, self.trace.protocol)) is not None
        return _Standing.PROVEN if allowed and name not in self.misused else _Standing.JUDGED

    def _of_whole(self) -> _Standing:
        """The standing of an oddity of the program as such: it was understood to its end, or it is told where not."""
        return _Standing.PROVEN if self.worst is Severity.INFO and self.trace.complete else _Standing.JUDGED

    def _unless(self, *rules: str) -> _Standing:
        return _Standing.PROVEN if self.rules.isdisjoint(rules) else _Standing.JUDGED

    def _finding(self, rule: str, severity: Severity, message: str, evidence: str) -> Finding:
        imported = next((self.seen[name] for name in self._names(evidence) if name in self.seen), None)
        where = Location(self.member, None if imported is None else imported.offset - self.origin)
        shown = printable(evidence)
        shown = shown if len(shown) <= _EVIDENCE else shown[: _EVIDENCE - 3] + "..."
        return Finding(rule, severity, Confidence.MEDIUM, printable(message), where, shown)


_DIFFERENTLY = "fickling sees an import that modelhub does not: the two read the pickle differently"
_BEYOND = "fickling sees an import after the place where modelhub cannot follow the pickle any more"
_DISCOUNTED = {
    _Standing.PROVEN: "fickling objects to what is proven in its role here",
    _Standing.JUDGED: "fickling objects to what other findings are about, and adds nothing to them",
}
