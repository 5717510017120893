"""What came from the Hub and has been changed there since: told by asking for a commit, and let in as a fetch is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelhub import __version__
from modelhub.db import Catalog
from modelhub.db.origins import Downloaded
from modelhub.errors import ChangedDuringRead, ModelHubError, NotFound, SourceError
from modelhub.fetching.choose import variant_of
from modelhub.fetching.fetch import FetchResult, fetch
from modelhub.fetching.plan import plan_fetch
from modelhub.intake import stat_of
from modelhub.source import Digest
from modelhub.source.network import reference_of

if TYPE_CHECKING:
    from modelhub.source.hub import HubFile, Reference


@dataclass(frozen=True, slots=True)
class Newer:
    """What has become, at its source, of a record that was fetched.

    ``state``: ``current``, ``outdated`` (a newer commit has other bytes), ``gone`` (it is not there any more),
    ``pinned`` (a commit was asked for, which is what it is for ever), ``elsewhere`` (not from the Hub) or ``failed``.
    ``address`` is where the newer one lies, pinned, ``changed`` which of its files are others, ``size`` their bytes.
    """

    came: Downloaded
    state: str
    address: str | None = None
    changed: tuple[str, ...] = ()
    size: int = 0
    error: ModelHubError | None = None


def find_newer(catalog: Catalog, selectors: Sequence[str] = ()) -> Iterator[Newer]:
    """Ask the Hub what has become of the records that *selectors* fit, or of all that came from it, by record.

    A repository is asked once for its commit and, where that is another, once for the files that came from it. Raises
    :class:`~modelhub.errors.Offline` where nothing can be asked.
    """
    groups: dict[tuple[str, str | None], list[tuple[Downloaded, Reference]]] = {}
    for came in catalog.origins.downloaded(selectors):
        reference = reference_of(came.download.address)
        if reference is None:
            yield Newer(came, "elsewhere")
        elif came.download.asked == reference.revision:
            yield Newer(came, "pinned")
        else:
            groups.setdefault((reference.repo, came.download.asked), []).append((came, reference))
    if groups:
        from modelhub.source import hub

        hub.open_web().close()  # raises where the Hub cannot be asked at all
    for members in groups.values():
        yield from _asked(members)


def _asked(members: Sequence[tuple[Downloaded, Reference]]) -> Iterator[Newer]:
    """What has become of records that came from one repository, by the same revision."""
    from modelhub.source import hub

    came, reference = members[0]
    asked = reference._replace(revision=came.download.asked, path="")
    try:
        now = asked._replace(revision=hub.commit_of(hub.about(asked), asked))
        behind = [each for each in members if each[1].revision != now.revision]
        paths = sorted({file["path"] for came, _ in behind for file in came.download.files})
        there = hub.named_files(now, paths) if paths else {}
    except NotFound:
        yield from (Newer(came, "gone") for came, _ in members)
        return
    except SourceError as error:
        yield from (Newer(came, "failed", error=error) for came, _ in members)
        return
    for each in members:
        yield Newer(each[0], "current") if each not in behind else _compared(*each, now, there)


def _compared(came: Downloaded, reference: Reference, now: Reference, there: dict[str, HubFile]) -> Newer:
    files = came.download.files
    address = str(now._replace(path=reference.path))
    missing = [file["path"] for file in files if file["path"] not in there]
    if missing:
        is_gone = len(missing) == len(files)
        return Newer(came, "gone") if is_gone else Newer(came, "outdated", address, tuple(missing))
    changed = [there[file["path"]] for file in files if _is_other(file, there[file["path"]])]
    if not changed:
        return Newer(came, "current")
    size = sum(each.size for each in changed)
    return Newer(came, "outdated", address, tuple(each.path for each in changed), size)


def _is_other(file: Mapping[str, object], now: HubFile) -> bool:
    return file.get("size") != now.size or file.get("etag") != now.etag


def update(catalog: Catalog, newer: Newer, *, quiet: bool = True) -> FetchResult:
    """Fetch what is *newer*, through the same gate, in place of what the record has, which stays until it is let in.

    The new record is one artifact with the old one. Raises :class:`SourceError` where the old file is not what was
    recorded any more, or only tensors of an unsafe file were taken.
    """
    assert newer.address is not None
    entry, path = newer.came.entry, newer.came.entry.path
    assert path is not None
    if newer.came.download.salvaged:
        hint = f"modelhub fetch {newer.address} --salvage --to DIR"
        raise SourceError(f"{path}: only the tensors of an unsafe file were taken", path=path, hint=hint)
    _check_unchanged(catalog, path)
    files = [file["path"] for file in newer.came.download.files]
    plan = plan_fetch(newer.address, os.path.dirname(path), variant=variant_of(files))
    if len(plan.units) != 1 or plan.units[0].is_folder != newer.came.is_folder:
        raise SourceError(f"{newer.address}: is not one model any more, as {path} is", path=path)
    plan = replace(plan, units=(replace(plan.units[0], target=path),), asked=newer.came.download.asked)
    [done] = fetch(plan, catalog, replace=lambda: _check_unchanged(catalog, path), quiet=quiet)
    if done.action == "fetched" and done.entry is not None and entry.digest and done.entry.digest:
        catalog.derive(
            "update",
            output=Digest(done.entry.digest),
            inputs=[(Digest(entry.digest), "previous")],
            params={"from": newer.came.download.address, "to": newer.address},
            version=__version__,
        )
        catalog.artifacts.group([f"#{entry.id}", f"#{done.entry.id}"])
    return done


def _check_unchanged(catalog: Catalog, path: str) -> None:
    """Raise :class:`ChangedDuringRead` unless what lies at *path* is what the catalog saw there."""
    seen = stat_of(path)
    known = [(each.size, each.mtime_ns, each.ino) for each in catalog.libraries.at([path])]
    if known != [(seen.size, seen.mtime_ns, seen.ino)]:
        hint = "move it away, and fetch the newer one; or record it as it is: modelhub intake"
        raise ChangedDuringRead(
            f"{path}: it was changed since it was recorded, and is not replaced", path=path, hint=hint
        )
