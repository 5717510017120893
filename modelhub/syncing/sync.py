"""The story of a sync, in batches that are each whole: whenever it ends, the next one goes on from there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from modelhub.db import Batch, Catalog, Change, Known, LibraryRoot, Moved, Seen
from modelhub.errors import SourceError
from modelhub.syncing.compare import Comparison, Decision, Print, compare, decide, look_among, to_be_read
from modelhub.syncing.owning import leave_to_owners
from modelhub.syncing.side_files import sync_side_files
from modelhub.syncing.walk import Walk, walk

if TYPE_CHECKING:
    from modelhub.db import Reading

BATCH = 500
"""Files that are written down in one transaction: what a power cut can cost, and one wait for the disk."""

NEW = 2000
"""New files that are: what they cost is a second of reading, and an index whose keys are digests is written out nearly
whole with every transaction."""

T = TypeVar("T")


class Unread(NamedTuple):
    """A path that could not be looked at, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync found.

    ``counts`` are files by what became of them (``unchanged``, ``added``, ``moved``, ``replaced``, ``returned``,
    ``touched``, ``grown``, ``linked``, ``vanished``, ``offline``), ``changes`` each of those but the unchanged.
    ``side_files`` are the small files beside them: how many were ``added``, ``changed`` or ``removed``.
    ``offline`` are libraries that are not there, ``elsewhere`` those of them whose every file was found in another
    library, ``unclear`` files that might be any of several lost ones, with their
    paths; they are among the added.
    """

    libraries: tuple[str, ...]
    counts: Mapping[str, int]
    changes: tuple[Change, ...] = ()
    offline: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    unclear: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unread: tuple[Unread, ...] = ()
    side_files: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Run:
    """What one sync has come to so far."""

    catalog: Catalog
    on_change: Callable[[Change], None] | None
    counts: Counter[str] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    def write(self, batch: Batch) -> None:
        for change in self.catalog.libraries.write(batch):
            self.counts[change.kind] += 1
            self.changes.append(change)
            if self.on_change is not None:
                self.on_change(change)


def sync(
    catalog: Catalog,
    libraries: Sequence[str] = (),
    *,
    processes: int | None = None,
    on_change: Callable[[Change], None] | None = None,
) -> SyncReport:
    """Make *catalog* true to the folders *libraries* (all that it follows, if none): see :mod:`modelhub.syncing`.

    Headers are read in as many *processes* as there are processors, or as are said. *on_change* is told of each change
    once it is written down. Nothing in the folders is changed. Raises :class:`~modelhub.errors.CatalogError`.
    """
    roots = chosen_libraries(catalog, libraries)
    run = _Run(catalog, on_change)
    walks = {root.id: walk(root) for root in roots}
    everything = catalog.libraries.all()
    outside = [path for root in roots for path in leave_to_owners(walks[root.id], root, everything)]
    known = catalog.libraries.known(roots, outside)
    here, away = _there_and_not(roots, walks, known)
    gone_with_them = tuple(root.path for root in away)
    seen = [file for root in here for file in walks[root.id].seen]
    if away:
        known = _without(away, known, {file.path for file in seen})
    comparison = compare(known, seen, catalog.libraries.lost())
    absent = _absent(catalog, everything, here, known) if comparison.new else []
    look_among(absent, comparison, {root.id: root.path for root in everything})
    run.counts["unchanged"] = comparison.unchanged + sum(place.state == "live" for place, _ in comparison.seen_again)
    for again in _batches(comparison.seen_again):
        run.write(Batch(seen_again=again))
    for moved in _batches(comparison.moved):
        run.write(Batch(moved=moved))
    for linked in _batches(comparison.linked):
        run.write(Batch(linked=linked))
    decision = _decide(run, comparison)
    for moved in _batches(decision.moved):
        run.write(Batch(moved=moved))
    for root in away:
        run.counts["offline"] += catalog.libraries.put_away(root)
    for touched in _batches(decision.touched):
        run.write(Batch(touched=touched))
    _read_and_add(run, decision, processes or os.cpu_count() or 1)
    _let_go(run, here, walks, decision.missing)
    side_files = sync_side_files(catalog, here, walks, away)
    for root in here:
        seen_as = walks[root.id]
        catalog.libraries.came_to_an_end(root, seen_as.device, seen_as.inode)
        run.unread += [Unread(path, "it cannot be looked at") for path in seen_as.closed]
    return SyncReport(
        tuple(root.path for root in roots),
        dict(run.counts),
        tuple(run.changes),
        gone_with_them,
        _elsewhere(away, absent, (*comparison.moved, *decision.moved)),
        tuple((file.path, tuple(place.path for place in places)) for file, places in decision.unclear),
        tuple(run.unread),
        side_files,
    )


def chosen_libraries(catalog: Catalog, paths: Sequence[str]) -> list[LibraryRoot]:
    """The libraries at *paths*, all of them for none; raises :class:`~modelhub.errors.Conflict` for another path."""
    return catalog.libraries.chosen([os.path.abspath(path) for path in paths])


def _there_and_not(
    roots: Sequence[LibraryRoot], walks: Mapping[int, Walk], known: Sequence[Known]
) -> tuple[list[LibraryRoot], list[LibraryRoot]]:
    """The libraries that are there and those that are not: whose folder is gone, or is another one, with nothing in it
    of what is known: the mount point of a disk that is not plugged in."""
    here, away = [], []
    for root in roots:
        found = walks[root.id]
        paths = {place.path for place in known if place.root_id == root.id}
        other = (found.device, found.inode) != (root.device, root.inode)
        if not found.is_there or (paths and other and paths.isdisjoint(file.path for file in found.seen)):
            away.append(root)
        else:
            here.append(root)
    return here, away


def _without(away: Sequence[LibraryRoot], known: Sequence[Known], seen: Collection[str]) -> list[Known]:
    """What is *known*, but for what lies in the libraries that are *away*, or that they alone led to."""
    paths, ids = tuple(root.path for root in away), {root.id for root in away}
    return [
        place for place in known if not _inside(place.path, paths) and (place.root_id not in ids or place.path in seen)
    ]


def _absent(
    catalog: Catalog, libraries: Sequence[LibraryRoot], here: Sequence[LibraryRoot], known: Sequence[Known]
) -> list[Known]:
    """The places whose disk is not there, beside those that are *known* in the *libraries* that are *here*."""
    others = [root for root in libraries if root not in here and not _holds_anything(root.path)]
    looked_at = {place.id for place in known}
    return [place for place in catalog.libraries.absent(others) if place.id not in looked_at]


def _holds_anything(folder: str) -> bool:
    """Whether *folder* is there, and no mount point without its disk."""
    try:
        with os.scandir(folder) as entries:
            return any(entries)
    except OSError:
        return False


def _elsewhere(away: Sequence[LibraryRoot], absent: Sequence[Known], moved: Sequence[Moved]) -> tuple[str, ...]:
    """Those of the libraries that are *away* of whose *absent* places all have been found elsewhere, if not before."""
    found = {move.known.id for move in moved}
    left = {place.root_id for place in absent if place.id not in found}
    return tuple(root.path for root in away if root.id not in left and (absent or not any(root.counts.values())))


def _decide(run: _Run, comparison: Comparison) -> Decision:
    """Read the headers that decide what a file is."""
    prints: dict[str, Print] = {}
    wanted = to_be_read(comparison)
    if wanted:
        from modelhub.failures import reason_of
        from modelhub.syncing.reading import prints_of

        for file in wanted:
            try:
                prints[file.path] = prints_of(file.path, file.is_folder)
            except Exception as error:  # a fault of ours must not keep the other files from being seen
                run.unread.append(Unread(file.path, reason_of(error, file.path)))
        failed = {file.path for file in wanted} - prints.keys()
        comparison.new = [file for file in comparison.new if file.path not in failed]
    return decide(comparison, prints)


def _read_and_add(run: _Run, decision: Decision, processes: int) -> None:
    """Read what is new, and write it down as it comes."""
    if not decision.added and not decision.grown:
        return
    from modelhub.syncing.readers import read_all

    before: dict[str, Known | None] = {file.path: place for place, file in decision.added}
    further = {file.path: place for place, file in decision.grown}
    first: dict[tuple[int, int], Seen] = {}
    twins: list[Seen] = []
    wanted: list[Seen] = [file for _, file in decision.grown]
    for _, file in decision.added:
        if first.setdefault((file.dev, file.ino), file) is file or file.is_folder:
            wanted.append(file)
        else:
            twins.append(file)
    readings = _readings(run, read_all(wanted, processes))
    for batch in _batches(readings, NEW):
        run.write(
            Batch(
                grown=tuple((further[file.path], file, said) for file, said in batch if file.path in further),
                added=tuple((before[file.path], file, said) for file, said in batch if file.path in before),
            )
        )
    if twins:
        known = {place.path: place.content_id for place in run.catalog.libraries.at([f.path for f in first.values()])}
        linked = [
            (known[first[file.dev, file.ino].path], file) for file in twins if first[file.dev, file.ino].path in known
        ]
        for some in _batches(linked):
            run.write(Batch(linked=some))


def _readings(run: _Run, answers: Iterable[tuple[Seen, Reading | str]]) -> Iterator[tuple[Seen, Reading]]:
    for file, said in answers:
        if isinstance(said, str):
            run.unread.append(Unread(file.path, said))
        else:
            yield file, said


def _let_go(run: _Run, here: Sequence[LibraryRoot], walks: Mapping[int, Walk], missing: Sequence[Known]) -> None:
    """Write down what is no longer there, and tell it from what merely cannot be seen."""
    closed = tuple(path for root in here for path in walks[root.id].closed)
    dangling = {path for root in here for path in walks[root.id].dangling}
    devices = {device for root in here for device in walks[root.id].devices}
    own = {root.device for root in here}
    gone: list[Known] = []
    away: list[Known] = []
    for place in missing:
        if _inside(place.path, closed):
            continue
        unplugged = place.dev not in devices and place.dev not in own
        (away if place.path in dangling or unplugged else gone).append(place)
    for some in _batches(gone):
        run.write(Batch(missing=some))
    for some in _batches([place for place in away if place.state != "offline"]):
        run.write(Batch(away=some))


def _inside(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _batches(items: Iterable[T], size: int | None = None) -> Iterator[tuple[T, ...]]:
    waiting = iter(items)
    while batch := tuple(islice(waiting, size or BATCH)):
        yield batch


def add_library(catalog: Catalog, path: str, *, dialect: str = "auto", follow_links: bool = True) -> LibraryRoot:
    """Let *catalog* follow the folder *path* from now on; nothing of it is read yet.

    *dialect* is one of :data:`modelhub.source.layouts.DIALECTS`. Raises :class:`SourceError` for what is no folder, and
    :class:`~modelhub.errors.Conflict` for a folder that is followed already or lies in, or around, one that is.
    """
    from modelhub.source.layouts import detect

    path = os.path.abspath(path)
    try:
        st = os.stat(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be a library: {getattr(error, 'strerror', None) or error}") from error
    if not os.path.isdir(path):
        raise SourceError(f"{path}: cannot be a library: it is not a folder")
    return catalog.libraries.add(
        path,
        detect(path) if dialect == "auto" else dialect,
        follow_links=follow_links,
        device=st.st_dev,
        inode=st.st_ino,
    )
