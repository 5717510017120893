"""What became of files at intake: as plain JSON objects, and for people a line each and a table in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from modelhub.report.json import coverage_dict, digest_dict, finding_dict, identity_dict
from modelhub.report.plain import Column, Line, Span, Table, counted, line
from modelhub.report.scanned import summary_of, verdict_span

if TYPE_CHECKING:
    from modelhub.errors import ModelHubError
    from modelhub.identify.base import Identity
    from modelhub.scan.findings import ScanReport


class KnownRecord(Protocol):
    """What the catalog says of the file: all there is to say of one that was not read again."""

    def as_dict(self) -> dict[str, Any]: ...


class TakenIn(Protocol):
    """The result of taking one file in; see :class:`modelhub.library.IntakeResult`."""

    @property
    def path(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def report(self) -> ScanReport | None: ...
    @property
    def identity(self) -> Identity | None: ...
    @property
    def target(self) -> str | None: ...
    @property
    def error(self) -> ModelHubError | None: ...
    @property
    def entry(self) -> KnownRecord | None: ...
    @property
    def beside(self) -> int: ...


def taken_dict(result: TakenIn) -> dict[str, Any]:
    """One result; what the catalog knows stands in for what was not looked at again, its findings left out."""
    known = _known(result)
    report, identity = result.report, result.identity
    facts = ("kind", "architecture", "variant", "prediction_type", "precision")
    return {
        "path": result.path,
        "action": result.action,
        "target": result.target,
        "digest": {"sha256": known.get("digest")} if report is None else digest_dict(report.digest),
        "container": report.container if report is not None else known.get("container"),
        "verdict": verdict_of(result),
        **({name: known.get(name) for name in facts} if identity is None else identity_dict(identity)),
        "coverage": coverage_dict(report.coverage) if report is not None else None,
        "findings": [finding_dict(finding) for finding in report.findings] if report is not None else [],
        "record": known.get("id"),
        "side_files": result.beside,
        "error": str(result.error) if result.error is not None else None,
    }


def verdict_of(result: TakenIn) -> str:
    """The verdict's word: the scan's, else the recorded one, else ``unknown``."""
    if result.report is not None:
        return result.report.verdict.label
    return str(_known(result).get("verdict", "unknown"))


def fact_of(result: TakenIn, name: str) -> str | None:
    """A fact of the identity (``"kind"``), as found now or as recorded."""
    if result.identity is not None:
        value = getattr(result.identity, name)
    else:
        value = _known(result).get(name)
    return value if isinstance(value, str) else None


def taken_lines(result: TakenIn) -> Iterator[Line]:
    """One line, and a second one where something stood in the way."""
    verdict = verdict_of(result)
    facts = " ".join(filter(None, (fact_of(result, name) for name in ("kind", "architecture", "precision"))))
    target = f"  -> {result.target}" if result.target is not None and result.target != result.path else ""
    yield line(
        verdict_span(verdict, 10),
        f"  {result.action:<13}  ",
        Span(result.path, "bold"),
        target,
        Span(f"  {facts}" if facts else "", "dim"),
        Span(f"  {counted(result.beside, 'side file')}" if result.beside else "", "dim"),
    )
    if result.error is not None:
        yield line("            ", str(result.error).removeprefix(f"{result.path}: "))
    elif result.report is not None and verdict != "safe":
        yield line("            ", Span(summary_of(result.report), "dim"))


def summary_table(results: Iterable[TakenIn]) -> Table:
    """How many files of each kind and architecture there were, what they were judged and what became of them."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    actions: dict[str, None] = {}
    for result in results:
        key = (fact_of(result, "kind") or "not identified", fact_of(result, "architecture") or "-")
        counts = groups.setdefault(key, {})
        for word in ("files", verdict_of(result), f"action {result.action}"):
            counts[word] = counts.get(word, 0) + 1
        actions[result.action] = None
    numbers = ["files", "safe", "unknown", "suspicious", "unsafe", *(f"action {action}" for action in actions)]
    columns = (
        Column("kind"),
        Column("architecture"),
        *(Column(word.removeprefix("action "), right=True) for word in numbers),
    )
    rows = tuple(
        line(*key, *(f"{counts[word]:,}" if word in counts else "" for word in numbers))
        for key, counts in sorted(groups.items())
    )
    return Table(columns, rows)


def _known(result: TakenIn) -> dict[str, Any]:
    return result.entry.as_dict() if result.entry is not None else {}
