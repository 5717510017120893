"""Syncing whenever something has changed, and only once it has settled.

Folders are looked at every few seconds, by a stat for each file. No file system has to report anything, so that network
drives, drives that are plugged in and folders behind links are followed like all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modelhub.db import Catalog
from modelhub.errors import CatalogLocked
from modelhub.syncing.sync import SyncReport, chosen_libraries, sync
from modelhub.syncing.walk import walk

EVERY = 10.0
"""Seconds between two looks: half a second of processor time for 50,000 files."""

SETTLED = 2.0
"""Seconds in which nothing may change before a sync: a download that goes on changes its file's size and time."""

PATIENCE = 60.0
"""Seconds after which what goes on changing is synced as it is."""


def watch(
    catalog: Catalog,
    libraries: Sequence[str] = (),
    *,
    processes: int | None = None,
    every: float = EVERY,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[SyncReport]:
    """Sync now and whenever the folders *libraries* (all that the catalog follows, if none) have changed, for ever.

    Gives the report of each sync. The arguments are those of :func:`modelhub.syncing.sync`; *every* is the time between
    two looks, in seconds. While another process keeps writing to the catalog, it is tried again at the next look.
    """
    synced: Any = None
    while True:
        seen = _look(catalog, libraries)
        if synced is not None and seen != synced:
            seen = _settled(seen, lambda: _look(catalog, libraries), sleep)
        if seen != synced:
            try:
                report = sync(catalog, libraries, processes=processes)
            except CatalogLocked:
                if synced is None:
                    raise
            else:
                synced = seen
                yield report
        sleep(every)


def _settled(seen: object, look: Callable[[], object], sleep: Callable[[float], object]) -> object:
    """What lies there once nothing has changed for a while, or patience is at its end."""
    for _ in range(round(PATIENCE / SETTLED)):
        sleep(SETTLED)
        before, seen = seen, look()
        if seen == before:
            break
    return seen


def _look(catalog: Catalog, libraries: Sequence[str]) -> object:
    """What lies in the libraries now: equal for equal stats."""
    found = {}
    for root in chosen_libraries(catalog, libraries):
        there = walk(root)
        found[root.path] = (
            (there.is_there, there.device, there.inode),
            frozenset(there.seen),
            frozenset(there.beside),
            frozenset(there.closed),
            frozenset(there.dangling),
        )
    return found
