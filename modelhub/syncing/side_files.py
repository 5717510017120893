"""What has become of the files beside the models: those are read that are new or whose stat differs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from modelhub.db import Catalog, KnownSideFile, LibraryRoot, SideFileBatch, SideFileRead
from modelhub.sidefiles.naming import is_configuration
from modelhub.syncing.beside import SeenBeside
from modelhub.syncing.walk import Walk

BATCH = 500
"""Side files that are written down in one transaction."""

T = TypeVar("T")


def sync_side_files(
    catalog: Catalog, roots: Sequence[LibraryRoot], walks: Mapping[int, Walk], away: Sequence[LibraryRoot] = ()
) -> Mapping[str, int]:
    """Make *catalog* true to what stands beside the models that it knows; how many files were added, changed, removed.

    It comes after the models themselves, so that each is known by its path. Libraries that are *away* keep theirs, but
    for those of models that were found elsewhere.
    """
    seen = [file for root in roots for file in walks[root.id].beside]
    known = catalog.side_files.known([root.id for root in roots])
    parted = (
        [each for each in catalog.side_files.known([root.id for root in away]) if each.model is None] if away else []
    )
    if not seen and not known and not parted:
        return {}
    counts: Counter[str] = Counter()
    here = {(each.path, each.model): each for each in known if each.model is not None}
    left = parted + [each for each in known if each.model is None]
    to_read: list[tuple[SeenBeside, int | None]] = []
    for file in seen:
        before = here.pop((file.path, file.model), None)
        if before is not None and before.content_id != before.model_content:
            left.append(before)
            before = None
        elif before is not None and (before.size, before.mtime_ns) == (file.size, file.mtime_ns):
            continue
        to_read.append((file, before.id if before is not None else None))
    closed = tuple(path for root in roots for path in walks[root.id].closed)
    gone: list[KnownSideFile] = []
    for each in here.values():
        if each.model_state == "live" and not _inside(each.path, closed):
            (gone if each.content_id == each.model_content else left).append(each)
    for some in _batches(left):
        catalog.side_files.write(SideFileBatch(left=some))
    for some in _batches(gone):
        catalog.side_files.write(SideFileBatch(gone=some))
    configured = {
        each.content_id: each.model for each in gone if each.model and is_configuration(each.path, each.model)
    }
    for wanted in _batches(to_read):
        read = tuple(_read(catalog, wanted))
        catalog.side_files.write(SideFileBatch(read=read))
        counts.update("added" if each.known is None else "changed" for each in read)
        configured |= {each.content_id: each.model for each in read if is_configuration(each.path, each.model)}
    counts["removed"] = len(gone)
    if configured:
        from modelhub.reidentifying import reidentify_beside

        reidentify_beside(catalog, configured)
    return {kind: number for kind, number in counts.items() if number}


def _read(catalog: Catalog, wanted: Sequence[tuple[SeenBeside, int | None]]) -> Iterator[SideFileRead]:
    """What the *wanted* say, of those whose model the catalog knows."""
    from modelhub.sidefiles.reading import read_side_file

    places = {place.path: place for place in catalog.libraries.at(list({file.model for file, _ in wanted}))}
    for file, known in wanted:
        place = places.get(file.model)
        if place is None:
            continue
        told = read_side_file(file.path, file.dialect, file.file)
        yield SideFileRead(
            content_id=place.content_id,
            root_id=file.root_id,
            path=file.path,
            model=file.model,
            size=file.size,
            mtime_ns=file.mtime_ns,
            dialect=told.dialect,
            claims=told.claims.as_dict(),
            problem=told.problem,
            media_type=told.media_type,
            known=known,
        )


def _inside(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
