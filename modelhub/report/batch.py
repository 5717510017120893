"""What became of the files of one run of conversions: a line each, and one in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from modelhub.convert import Conversion, ConversionPlan
from modelhub.errors import ModelHubError, UnsafeModelError
from modelhub.report.json import conversion_dict, plan_dict
from modelhub.report.plain import Line, Span, Style, byte_size, line
from modelhub.scan.findings import Verdict

_ORDER = ("converted", "would convert", "already converted", "left alone", "refused", "failed")
_STYLES: Mapping[str, Style] = {"converted": "safe", "refused": "unsafe", "failed": "unknown"}


class Converted(Protocol):
    """The result of converting one file of many; see :class:`modelhub.batch.BatchResult`."""

    @property
    def path(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def target(self) -> str | None: ...
    @property
    def done(self) -> Conversion | ConversionPlan | None: ...
    @property
    def error(self) -> Exception | None: ...


def verdict_of(result: Converted) -> Verdict:
    """What the exit code is made of: what a refused file was judged, and ``UNKNOWN`` for one that failed."""
    if isinstance(result.error, UnsafeModelError):
        verdict: Verdict = result.error.report.verdict
        return verdict
    return Verdict.UNKNOWN if result.action == "failed" else Verdict.SAFE


def batch_dict(result: Converted) -> dict[str, Any]:
    """One result: the fields of a conversion where there was one, and ``action`` and ``error``."""
    fields: dict[str, Any] = {"source": result.path, "target": result.target, "done": False}
    if isinstance(result.done, Conversion):
        fields = conversion_dict(result.done)
    elif result.done is not None:
        fields = plan_dict(result.done, result.target)
    return fields | {"action": result.action, "error": None if result.error is None else str(result.error)}


def batch_lines(result: Converted) -> Iterator[Line]:
    """One line, and where something stood in the way what it was, and what to do."""
    action = Span(f"{result.action:<18}", _STYLES.get(result.action, "dim"))
    size = f"  {byte_size(result.done.size)}" if result.done is not None else ""
    yield line(action, Span(result.path, "bold"), Span(f"  to {result.target}{size}" if result.target else "", "dim"))
    if result.error is not None:
        yield line(f"    {str(result.error).removeprefix(f'{result.path}: ')}")
        if isinstance(result.error, ModelHubError) and result.error.hint is not None:
            yield line(Span(f"    {result.error.hint}", "dim"))


def tally(counts: Mapping[str, int]) -> str:
    """``3 converted, 1 refused``"""
    return ", ".join(f"{counts[action]:,} {action}" for action in _ORDER if counts.get(action))
