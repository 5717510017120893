"""The only door to the database."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select, update

from modelhub.db import (
    artifacts,
    details,
    duplicates,
    grouping,
    identifying,
    lineage,
    recording,
    search,
)
from modelhub.db import facts as facts_
from modelhub.db.claims import claims_of
from modelhub.db.collections import Collections
from modelhub.db.digests import Digests, put_claims
from modelhub.db.engine import Store, default_url, parse_url
from modelhub.db.entries import Derivation, Detail, Duplicates, Entry, Query
from modelhub.db.libraries import Libraries
from modelhub.db.origins import Origins
from modelhub.db.schema import content, record, record_tag
from modelhub.db.side_files import SideFiles
from modelhub.db.smoke_runs import SmokeRuns
from modelhub.db.text import name_for
from modelhub.db.upgrade import bring_up_to_date
from modelhub.db.upkeep import Upkeep
from modelhub.errors import CatalogError
from modelhub.source import Digest, FileStat

if TYPE_CHECKING:  # their packages hold the whole scanner, which listing the catalog has no need of
    from modelhub.identify.base import Identity
    from modelhub.scan.findings import ScanReport


class Catalog:
    """What is known of the user's files. A context manager: leaving it closes the database.

    Every method is one transaction, sees the catalog at one moment, and may be called from any thread while other
    processes use the same catalog. All of them raise :class:`CatalogError`: :class:`CatalogLocked` when another
    process writes for longer than the time-out.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str | None = None) -> Catalog:
        """Open the catalog at *url*, made if it is not there and migrated if it is of an earlier version.

        *url* is any SQLAlchemy URL or a path ending in .db, .sqlite or .sqlite3; ``None`` is ``catalog.db`` in the
        user's data folder. Raises :class:`SchemaTooNew` for a catalog of a later version, :class:`CatalogError` for
        what is no catalog, cannot be written, or needs a driver that is not installed.
        """
        store = Store(parse_url(url))
        try:
            bring_up_to_date(store)
        except BaseException:
            store.close()
            raise
        return cls(store)

    @cached_property
    def libraries(self) -> Libraries:
        """The folders that the catalog follows."""
        return Libraries(self._store)

    @cached_property
    def artifacts(self) -> grouping.Artifacts:
        """The records that are one model in the user's eyes."""
        return grouping.Artifacts(self._store)

    @cached_property
    def collections(self) -> Collections:
        """The user's collections."""
        return Collections(self._store)

    @cached_property
    def digests(self) -> Digests:
        """The digests of the catalog's bytes."""
        return Digests(self._store)

    @cached_property
    def identifications(self) -> identifying.Identifications:
        """What identification goes by, and what it came to."""
        return identifying.Identifications(self._store)

    @cached_property
    def smoke_runs(self) -> SmokeRuns:
        """What smoke tests came to."""
        return SmokeRuns(self._store)

    @cached_property
    def side_files(self) -> SideFiles:
        """What stands beside the models in the folders that the catalog follows."""
        return SideFiles(self._store)

    @cached_property
    def origins(self) -> Origins:
        """Where bytes were downloaded from, and what places on the network claim of them."""
        return Origins(self._store)

    @cached_property
    def upkeep(self) -> Upkeep:
        """Checks, copies, exports, imports and rebuilding."""
        return Upkeep(self._store)

    @property
    def url(self) -> str:
        """The database's URL, its password hidden."""
        return self._store.url

    @property
    def folder(self) -> str:
        """Where files that belong to the catalog lie: beside it, or where it is no file in the user's data folder."""
        name = (parse_url(self._store.url).database if self._store.is_sqlite else None) or ""
        if name in ("", ":memory:") or name.startswith("file:"):
            name = default_url().database or ""
        return os.path.dirname(os.path.abspath(name))

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def unchanged(self, stat: FileStat, policy_version: str, version: str) -> Entry | None:
        """The entry recorded for ``stat.path`` if *stat* is what it was then and the bytes' newest scan was by this
        policy and this version of modelhub; else ``None``. Reads no file."""
        found = self._store.read(lambda connection: search.unchanged(connection, stat, policy_version, version))
        return replace(found[0], path=stat.path) if found else None

    def record(
        self,
        stat: FileStat,
        digest: Digest,
        report: ScanReport,
        identity: Identity,
        *,
        tensor_count: int | None,
        parameter_count: int | None,
        metadata: Mapping[str, str],
        version: str,
        name: str | None = None,
        is_folder: bool = False,
        problem: str | None = None,
        observation: Mapping[str, Any] | None = None,
        is_quarantined: bool = False,
    ) -> Entry:
        """Write down that ``stat.path`` holds the bytes of *digest*, and what *version* of modelhub said of them.

        Bytes seen for the first time get a record, called *name* or as the file is without its extension; bytes known
        keep theirs. A path that held other bytes holds these from now on. A report or identity that differs from the
        newest one is appended. Writing the same twice changes nothing. *problem* is what is wrong with the
        file, in words, *observation* what :func:`modelhub.identify.stored` kept of it, for :attr:`identifications`.
        *is_quarantined*: the file was downloaded and is not let in (yet); recording it where it lies says so once it
        is.
        """
        if report.digest is not None and report.digest != digest:
            raise CatalogError(f"{stat.path}: the scan report is of other bytes ({report.digest}) than {digest}")

        def work(connection: Connection) -> Entry:
            before = recording.record_at(connection, stat.path)
            content_id = recording.put_content(connection, digest, stat)
            connection.execute(update(content).where(content.c.id == content_id).values(problem=problem))
            recording.put_scan(connection, content_id, report, version)
            recording.put_identity(
                connection,
                content_id,
                identity,
                tensor_count=tensor_count,
                parameter_count=parameter_count,
                version=version,
            )
            title = name or name_for(stat.path, is_folder) or digest.sha256[:12]
            leaves = not is_quarantined and recording.is_quarantined(connection, content_id)
            is_new = recording.put_record(connection, content_id, title)
            changes = [
                is_new,
                recording.put_metadata(connection, content_id, metadata),
                identifying.put_observation(connection, content_id, observation),
                recording.put_location(
                    connection, content_id, stat, is_folder, state="quarantined" if is_quarantined else "live"
                ),
            ]
            if any(changes):
                recording.index_record(connection, content_id)
            put_claims(connection, [(content_id, *claim) for claim in claims_of(metadata)])
            facts_.settle(connection, content_id)
            (entry,) = search.entries(connection, record.c.content_id == content_id)
            if (
                (is_new or leaves)
                and before not in (None, entry.id)
                and artifacts.put_successor(connection, before, entry.id)
            ):
                recording.index_record(connection, content_id)
                (entry,) = search.entries(connection, record.c.content_id == content_id)
            return replace(entry, path=stat.path)

        return self._store.write(work)

    def derive(
        self,
        kind: str,
        *,
        output: Digest,
        inputs: Sequence[tuple[Digest, str]],
        params: Mapping[str, object],
        version: str,
    ) -> None:
        """Write down that *output* was made of *inputs* (digests, each with its role) by *version* of modelhub.

        *kind* is a word such as ``convert``; *params* what it was told, as JSON has it. Neither end needs to be in the
        catalog. Writing the same step twice changes nothing. What was converted is one artifact with what became of it.
        """

        def work(connection: Connection) -> None:
            is_new = lineage.put_derivation(
                connection, kind, output=output, inputs=inputs, params=params, version=version
            )
            if is_new and kind == "convert" and len(inputs) == 1:
                grouping.join_contents(connection, inputs[0][0].sha256, output.sha256)

        self._store.write(work)

    def derived_from(self, digest: Digest, kind: str = "convert", version: str | None = None) -> list[Derivation]:
        """The steps of *kind* that *digest* went into, the newest first, each with the paths where its output lies."""
        return self._store.read(lambda connection: lineage.derived_from(connection, digest, kind, version))

    def entries(self, query: Query | None = None) -> list[Entry]:
        """The records that fit *query*; without one, all whose bytes lie somewhere, by name."""
        return self._store.read(lambda connection: search.matching(connection, query or Query()))

    def values(self, name: str) -> list[str]:
        """What records have as *name*: kind, architecture, variant, prediction_type, precision, verdict, container."""
        return self._store.read(lambda connection: search.values_of(connection, name))

    def show(self, selector: str) -> Detail:
        """Everything about the one record that *selector* fits: its id, its exact name, a path or file name of its
        bytes, or the beginning of their SHA-256 (six hex digits or more, ``sha256:`` may stand before them).

        Raises :class:`Conflict`, naming the candidates, when several fit, and when none does.
        """
        return self._store.read(
            lambda connection: details.detail(connection, details.select_entry(connection, selector, any_version=True))
        )

    def duplicates(self) -> tuple[list[Duplicates], int]:
        """Groups of files that are the same bytes, or hold the same tensors, the costliest first; and how many files
        have not been hashed, of which nothing can be said."""
        return self._store.read(
            lambda connection: (duplicates.duplicates(connection), duplicates.not_comparable(connection))
        )

    def tag(self, selector: str, tags: Sequence[str]) -> Entry:
        """Add *tags*, kept in lower case and single-spaced, to the record that *selector* fits (see :meth:`show`)."""
        return self.tag_all([selector], tags)[0]

    def untag(self, selector: str, tags: Sequence[str]) -> Entry:
        """Take *tags* from the record that *selector* fits; those that it has not are passed over."""
        return self.tag_all([selector], tags, remove=True)[0]

    def tag_all(self, selectors: Sequence[str], tags: Sequence[str], *, remove: bool = False) -> list[Entry]:
        """:meth:`tag`, or with *remove* :meth:`untag`, for each of *selectors*: for all, or for none where one fits no
        record."""
        wanted = recording.wanted_tags(tags)
        put = recording.remove_tags if remove else recording.put_tags

        return self._change_all(selectors, lambda connection, each: put(connection, each, wanted))

    def tags(self) -> dict[str, int]:
        """Every tag, by name, and how many artifacts have it."""
        counted = (
            select(record_tag.c.tag, func.count().label("number")).group_by(record_tag.c.tag).order_by(record_tag.c.tag)
        )
        return self._store.read(lambda connection: {each.tag: each.number for each in connection.execute(counted)})

    def note(self, selector: str, text: str, *, append: bool = False) -> Entry:
        """Let *text* be the notes of the record that *selector* fits, in place of those before or under them."""
        return self._write(
            selector, lambda connection, each: recording.put_notes(connection, each, text, append=append)
        )

    def rate(self, selector: str, rating: int | None) -> Entry:
        """Let *rating*, 0 to 5 or none, be that of the record that *selector* fits."""
        return self.rate_all([selector], rating)[0]

    def rate_all(self, selectors: Sequence[str], rating: int | None) -> list[Entry]:
        """:meth:`rate` for each of *selectors*: for all, or for none where one fits no record."""
        own = {"rating": None if rating is None else str(rating)}
        return self._change_all(selectors, lambda connection, each: recording.put_own(connection, each, own))

    def set(self, selector: str, facts: Mapping[str, str | None]) -> Entry:
        """Let these *facts* of the record that *selector* fits be so, whatever its files say, now and later.

        ``name`` and ``rating`` (0 to 5) are facts, too; ``None`` is for a model that has none, or no rating. Raises
        :class:`CatalogError` for a fact that nobody can set.
        """
        own = {name: value for name, value in facts.items() if name not in recording.OWN}
        return self._change(
            selector,
            lambda connection, each: any(
                [
                    recording.put_own(connection, each, {n: v for n, v in facts.items() if n in recording.OWN}),
                    facts_.put_overrides(connection, each, own),
                ]
            ),
        )

    def unset(self, selector: str, names: Sequence[str]) -> Entry:
        """Let the facts *names* of the record that *selector* fits be what its files say again.

        ``name`` is then that of its file; of ``rating`` and ``notes``, of which no file says anything, there are none.
        """
        facts = [name for name in names if name not in facts_.USERS]

        def work(connection: Connection, each: int) -> bool:
            facts_.check(names, beside=facts_.USERS)
            taken = [recording.take_own(connection, each, name) for name in names if name in facts_.USERS]
            return any([*taken, facts_.remove_overrides(connection, each, facts)])

        return self._change(selector, work)

    def _write(self, selector: str, change: Callable[[Connection, int], bool]) -> Entry:
        """*change* what belongs to the artifact, whichever of its records is meant."""
        return self._change_all([selector], change)[0]

    def _change_all(self, selectors: Sequence[str], change: Callable[[Connection, int], bool]) -> list[Entry]:
        """:meth:`_write` for each of *selectors*, in one transaction."""

        def work(connection: Connection) -> list[Entry]:
            return [_changed(connection, each, change, any_version=True) for each in selectors]

        return self._store.write(work)

    def _change(self, selector: str, change: Callable[[Connection, int], bool]) -> Entry:
        return self._store.write(lambda connection: _changed(connection, selector, change, any_version=False))


def _changed(
    connection: Connection, selector: str, change: Callable[[Connection, int], bool], *, any_version: bool
) -> Entry:
    """The record that *selector* fits after *change*, which says whether it changed anything."""
    entry = details.select_entry(connection, selector, any_version=any_version)
    if not change(connection, entry.id):
        return entry
    content_id = connection.execute(select(record.c.content_id).where(record.c.id == entry.id)).scalar_one()
    facts_.settle(connection, content_id)
    grouping.index_artifact(connection, entry.id)
    return search.entries(connection, record.c.id == entry.id)[0]
