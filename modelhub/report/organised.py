"""What organising a library comes to: as plain JSON objects, and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from modelhub.report.plain import Line, Span, Style, line

_STYLES: Mapping[str, Style] = {
    "moved": "safe",
    "would move": "safe",
    "clash": "suspicious",
    "failed": "unsafe",
    "unidentified": "unknown",
}


class Move(Protocol):
    """A file that goes elsewhere; see :class:`modelhub.organising.Move`."""

    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def place(self) -> object | None: ...


class Stays(Protocol):
    """A model that stays; see :class:`modelhub.organising.Stays`."""

    @property
    def path(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def reason(self) -> str: ...


def stay_dict(stays: Stays) -> dict[str, Any]:
    """A model that stays, and why."""
    return {"action": stays.why, "path": stays.path, "target": None, "beside": False, "reason": stays.reason}


def move_dicts(moves: Sequence[Move], action: str, reason: str | None = None) -> Iterator[dict[str, Any]]:
    """Each file of what is moved together; ``beside`` is said of those that are no models themselves."""
    for each in moves:
        yield {
            "action": action,
            "path": each.source,
            "target": each.target,
            "beside": each.place is None,
            "reason": reason,
        }


def organised_line(answer: Mapping[str, Any]) -> Line:
    """A file on one line: what became of it, where it was, where it is or why it stays."""
    action = str(answer["action"])
    after = f"  -> {answer['target']}" if answer["target"] is not None else ""
    why = f"  ({answer['reason']})" if answer["reason"] else ""
    return (Span(f"{action:<12} ", _STYLES.get(action, "")), *line(str(answer["path"]), after), Span(why, "dim"))
