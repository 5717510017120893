"""Libraries, and what their syncs found: as plain JSON objects, and for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from modelhub.report.plain import Column, Line, Span, Style, Table, counted, line

_STYLES: Mapping[str, Style] = {
    "added": "safe",
    "returned": "safe",
    "vanished": "suspicious",
    "replaced": "suspicious",
    "offline": "unknown",
}
_ORDER = ("added", "moved", "replaced", "returned", "vanished", "offline", "touched", "grown", "linked", "unchanged")


class Root(Protocol):
    """A folder that is followed; see :class:`modelhub.db.LibraryRoot`."""

    @property
    def path(self) -> str: ...
    @property
    def dialect(self) -> str: ...
    @property
    def follow_links(self) -> bool: ...
    @property
    def online(self) -> bool: ...
    @property
    def synced(self) -> str | None: ...
    @property
    def counts(self) -> Mapping[str, int]: ...


class Change(Protocol):
    """One thing that a sync found; see :class:`modelhub.db.Change`."""

    @property
    def kind(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def previous(self) -> str | None: ...


class Synced(Protocol):
    """What a sync found; see :class:`modelhub.syncing.SyncReport`."""

    @property
    def changes(self) -> Sequence[Change]: ...
    @property
    def unclear(self) -> Sequence[tuple[str, tuple[str, ...]]]: ...


def root_dict(root: Root) -> dict[str, Any]:
    """A followed folder, with its files by state."""
    return {
        "path": root.path,
        "dialect": root.dialect,
        "links": "follow" if root.follow_links else "skip",
        "online": root.online,
        "synced": root.synced,
        "files": {state: root.counts.get(state, 0) for state in ("live", "offline", "missing")},
    }


def root_table(roots: Iterable[Root]) -> Table:
    """A row for each followed folder."""
    columns = (
        Column("library", wraps=True),
        Column("dialect"),
        Column("state"),
        Column("live", right=True),
        Column("missing", right=True),
        Column("offline", right=True),
        Column("last sync"),
    )
    rows = tuple(
        line(
            root.path,
            root.dialect,
            Span("online", "safe") if root.online else Span("offline", "unknown"),
            *(f"{root.counts.get(state, 0):,}" for state in ("live", "missing", "offline")),
            root.synced or "never",
        )
        for root in roots
    )
    return Table(columns, rows)


def change_dict(change: Change) -> dict[str, Any]:
    """A change as a plain object."""
    return {"kind": change.kind, "path": change.path, "previous": change.previous}


def change_line(change: Change, at: str | None = None) -> Line:
    """A change on one line, with its time if that is given."""
    came = f"  (from {change.previous})" if change.previous is not None else ""
    when = (Span(f"{at}  ", "dim"),) if at is not None else ()
    return (*when, Span(f"{change.kind:<9} ", _STYLES.get(change.kind, "")), *line(change.path), Span(came, "dim"))


def sync_lines(report: Synced, limit: int | None) -> Iterator[Line]:
    """The changes, no more than *limit* of each kind, and the files that nobody can tell."""
    told: dict[str, int] = {}
    for change in report.changes:
        told[change.kind] = told.get(change.kind, 0) + 1
        if limit is None or told[change.kind] <= limit:
            yield change_line(change)
    for kind, number in told.items():
        if limit is not None and number > limit:
            yield line(Span(f"… and {number - limit:,} more {kind} (-v shows all)", "dim"))
    for path, candidates in report.unclear:
        yield line(Span("unclear   ", "unknown"), path, Span(f"  may be any of {', '.join(candidates)}", "dim"))


def tally(counts: Mapping[str, int], side_files: Mapping[str, int]) -> str:
    """``12 added, 3 moved, 4,990 unchanged; side files: 5 added``."""
    told = [f"{counts[kind]:,} {kind}" for kind in _ORDER if counts.get(kind)]
    beside = [f"{number:,} {kind}" for kind, number in side_files.items()]
    return (", ".join(told) or counted(0, "file")) + (f"; side files: {', '.join(beside)}" if beside else "")
