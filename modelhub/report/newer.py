"""What has become, at its source, of what was fetched: as plain JSON objects, and for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from modelhub.report.plain import Line, Span, Style, byte_size, line

_STYLES: dict[str, Style] = {"outdated": "suspicious", "gone": "unknown", "failed": "unsafe", "current": "safe"}


class Asked(Protocol):
    """What was found of one record; see :class:`modelhub.fetching.Newer`."""

    @property
    def came(self) -> Any: ...
    @property
    def state(self) -> str: ...
    @property
    def address(self) -> str | None: ...
    @property
    def changed(self) -> tuple[str, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def error(self) -> Exception | None: ...


def newer_lines(newer: Asked, verbosity: int = 0) -> Iterator[Line]:
    """One record; what is as it was only with ``-v``."""
    entry = newer.came.entry
    if newer.state in ("current", "pinned", "elsewhere") and verbosity == 0:
        return
    named = Span(entry.name, "bold")
    was = Span(f"  #{entry.id}  {newer.came.download.address}", "dim")
    yield line(Span(newer.state.ljust(10), _STYLES.get(newer.state, "dim")), "  ", named, was)
    if newer.state == "outdated":
        yield line(f"    {byte_size(newer.size)} to download: ", str(newer.address))
        for path in newer.changed if verbosity > 0 else ():
            yield line(Span(f"    changed: {path}", "dim"))
    if newer.error is not None:
        yield line("    ", Span(str(newer.error), "unsafe"))


def newer_dict(newer: Asked) -> dict[str, Any]:
    """One record, the address that it came from as ``from``, that of the newer one as ``address``."""
    return {
        "record": newer.came.entry.id,
        "name": newer.came.entry.name,
        "path": newer.came.entry.path,
        "state": newer.state,
        "from": newer.came.download.address,
        "asked": newer.came.download.asked,
        "address": newer.address,
        "changed": list(newer.changed),
        "size": newer.size,
        "error": None if newer.error is None else str(newer.error),
    }
