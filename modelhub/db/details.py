"""One record, from what a user calls it to everything that is known of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, select
from sqlalchemy.sql.elements import ColumnElement

from modelhub.db import artifacts, full_text, hearsay, lineage, search
from modelhub.db.column_types import NAME_LENGTH
from modelhub.db.entries import Detail, Entry, FoundBefore, Identified, KnownDigest, Place, Query, ScanRun
from modelhub.db.facts import overrides
from modelhub.db.recording import metadata_of
from modelhub.db.schema import (
    collection,
    collection_member,
    content,
    content_digest,
    finding,
    identification,
    location,
    record,
    scan_report,
)
from modelhub.db.smoke_runs import runs_of
from modelhub.db.text import path_key, storable
from modelhub.db.triggers import trigger_words
from modelhub.errors import CatalogError, Conflict

SHORTEST_DIGEST = 6
"""Hex digits that a digest's beginning must have to select by it."""

_NAMED = 10  # candidates that an error names


def select_entry(connection: Connection, selector: str, *, any_version: bool = False) -> Entry:
    """The one record that *selector* fits: its id (``#`` may stand before it), its exact name, a path or file name of
    its bytes, or the beginning of a digest of theirs (six hex digits or more; its algorithm may stand before them);
    where nothing does, a file name of its bytes without the extension.

    A name selects among the records whose bytes lie somewhere, and among all when there is none. With *any_version*
    several records of one artifact are as good as one: the newest of those whose bytes are there stands for it. Raises
    :class:`Conflict` when none or several fit, naming them.
    """
    found = {entry.id: entry for way in _ways(connection, selector) for entry in search.entries(connection, way)}
    if not found and selector and os.path.basename(selector) == selector:  # of copies, one gave its record the name
        ids = _in_files_called(connection, selector, without_extension=True)
        found = {entry.id: entry for entry in search.entries(connection, content.c.id.in_(ids))}
    named = {entry.id for entry in found.values() if entry.name == storable(selector)}
    if any(found[each].path is not None for each in named):
        found = {each: entry for each, entry in found.items() if each not in named or entry.path is not None}
    if any_version and len({entry.artifact for entry in found.values()}) == 1:
        return max(found.values(), key=lambda entry: (entry.state == "live", entry.path is not None, entry.id))
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise Conflict(
            f"{selector}: {len(found)} records fit: {_listed(list(found.values()))}",
            hint="name one by #ID, by its file name or path, or by sha256: and the beginning of its digest",
        )
    raise Conflict(f"{selector}: no record has this name, path, id or digest", hint=_nearest(connection, selector))


def _ways(connection: Connection, selector: str) -> list[ColumnElement[bool]]:
    """Conditions, each of which is one thing that *selector* may mean."""
    keys = {path_key(selector)}
    if "\0" not in selector:
        keys.add(path_key(os.path.abspath(selector)))
    at_path = select(location.c.content_id).where(location.c.live_key.in_(keys))
    ways: list[ColumnElement[bool]] = [content.c.id.in_(at_path)]
    if selector and os.path.basename(selector) == selector:
        ways.append(content.c.id.in_(_in_files_called(connection, selector)))
    if len(selector) <= NAME_LENGTH:
        ways.append(record.c.name == selector)
    number = selector.removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) <= 9:
        ways.append(record.c.id == int(number))
    algorithm, _, digits = selector.lower().rpartition(":")
    is_algorithm = not algorithm or algorithm in search.ALGORITHMS
    if is_algorithm and len(digits) >= SHORTEST_DIGEST and search.HEX.issuperset(digits):
        ways.append(search.digest_begins(selector))
    return ways


def _in_files_called(connection: Connection, name: str, *, without_extension: bool = False) -> list[int]:
    """The contents of live files whose last path component is *name*, or is that without its extension."""
    if len(name) > full_text.LONGEST_WORD:
        return []
    ending = location.c.path.contains(f"{os.sep}{name}.", autoescape=True)
    called = ending if without_extension else location.c.path.endswith(name, autoescape=True)
    rows = connection.execute(
        select(location.c.content_id, location.c.path).where(location.c.live_key.is_not(None), called)
    )
    names = ((row.content_id, os.path.basename(row.path)) for row in rows)
    return [each for each, its in names if name == (os.path.splitext(its)[0] if without_extension else its)]


def _listed(candidates: list[Entry]) -> str:
    shown = [f"{entry.id} {entry.name} ({_known_by(entry)}, {entry.path})" for entry in candidates[:_NAMED]]
    return "; ".join(shown) + (f" and {len(candidates) - _NAMED} more" if len(candidates) > _NAMED else "")


def _known_by(entry: Entry) -> str:
    return f"sha256:{entry.digest[:12]}" if entry.digest is not None else "not hashed"


def _nearest(connection: Connection, selector: str) -> str | None:
    try:
        near = search.matching(connection, Query(text=os.path.basename(selector), limit=_NAMED))
    except CatalogError:  # what was asked for is no search either
        near = []
    return f"did you mean {_listed(near)}?" if near else None


def detail(connection: Connection, entry: Entry) -> Detail:
    """Everything that is known of *entry*."""
    row = connection.execute(
        select(record.c.content_id, content.c.problem)
        .join(content, record.c.content_id == content.c.id)
        .where(record.c.id == entry.id)
    ).one()
    notes = connection.execute(select(record.c.notes).where(record.c.id == entry.artifact)).scalar_one()
    metadata = metadata_of(connection, row.content_id)
    digests = _digests(connection, row.content_id)
    said = hearsay.claims_of(connection, row.content_id, metadata)
    beside = [phrase for claim in said for phrase in claim.facts.get("triggers", ())]
    return Detail(
        entry=entry,
        notes=notes,
        locations=_places(connection, row.content_id),
        findings=_findings(connection, row.content_id),
        scans=_scans(connection, row.content_id),
        identification=_identified(connection, row.content_id),
        problem=row.problem,
        overrides=overrides(connection, entry.id),
        digests=digests,
        disagreements=(*disagreements(entry.digest, digests), *hearsay.contradictions(said, entry)),
        metadata=metadata,
        triggers=trigger_words(metadata, beside),
        claims=said,
        previews=hearsay.previews_of(connection, row.content_id),
        downloads=hearsay.downloads_of(connection, row.content_id),
        parents=lineage.parents(connection, entry.digest),
        children=lineage.children(connection, entry.digest),
        versions=_versions(connection, entry),
        collections=_collections(connection, entry.artifact),
        smoke_runs=runs_of(connection, row.content_id),
    )


def _versions(connection: Connection, entry: Entry) -> tuple[Entry, ...]:
    others = [each for each in artifacts.members(connection, entry.artifact) if each != entry.id]
    return tuple(reversed(search.entries(connection, record.c.id.in_(others)))) if others else ()


def _collections(connection: Connection, holder: int) -> tuple[str, ...]:
    names = select(collection.c.name).join(collection_member).where(collection_member.c.record_id == holder)
    return tuple(connection.scalars(names.order_by(collection.c.name)))


def _digests(connection: Connection, content_id: int) -> tuple[KnownDigest, ...]:
    rows = connection.execute(
        select(content_digest.c.algorithm, content_digest.c.value, content_digest.c.origin, content_digest.c.source)
        .where(content_digest.c.content_id == content_id)
        .order_by(content_digest.c.origin.desc(), content_digest.c.algorithm, content_digest.c.source)
    )
    return tuple(KnownDigest(*row) for row in rows)


def disagreements(sha256: str | None, digests: Sequence[KnownDigest]) -> Iterator[str]:
    """The claimed ones of *digests* that what was computed contradicts, in words."""
    computed = {each.algorithm: each.value for each in digests if each.origin == "computed"}
    if sha256 is not None:
        computed["sha256"] = computed["autov2"] = sha256
    for each in digests:
        known = computed.get(each.algorithm)
        if each.origin == "claimed" and known is not None:
            width = min(len(known), len(each.value))
            if known[:width] != each.value[:width]:
                yield f"{each.source} claims {each.algorithm} {each.value}, but it is {known}"


def _places(connection: Connection, content_id: int) -> tuple[Place, ...]:
    rows = connection.execute(
        select(
            location.c.path,
            location.c.is_folder,
            location.c.state,
            location.c.proven,
            location.c.added,
            location.c.ended,
        )
        .where(location.c.content_id == content_id)
        .order_by(location.c.live_key.is_(None), location.c.id.desc())
    )
    return tuple(Place(*row) for row in rows)


def _findings(connection: Connection, content_id: int) -> tuple[FoundBefore, ...]:
    newest = select(scan_report.c.id).where(scan_report.c.content_id == content_id)
    rows = connection.execute(
        select(
            finding.c.rule,
            finding.c.severity,
            finding.c.confidence,
            finding.c.message,
            finding.c.member,
            finding.c.byte_offset,
            finding.c.evidence,
        )
        .where(finding.c.report_id == newest.order_by(scan_report.c.id.desc()).limit(1).scalar_subquery())
        .order_by(finding.c.id)
    )
    return tuple(FoundBefore(*row) for row in rows)


def _scans(connection: Connection, content_id: int) -> tuple[ScanRun, ...]:
    rows = connection.execute(
        select(scan_report).where(scan_report.c.content_id == content_id).order_by(scan_report.c.id.desc())
    )
    return tuple(
        ScanRun(
            verdict=row.verdict,
            complete=row.complete,
            container=row.container,
            skipped=tuple(row.skipped),
            policy_version=row.policy_version,
            version=row.version,
            added=row.added,
        )
        for row in rows
    )


def _identified(connection: Connection, content_id: int) -> Identified | None:
    row = connection.execute(
        select(identification)
        .where(identification.c.content_id == content_id)
        .order_by(identification.c.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return Identified(
        components=tuple(row.components),
        candidates=tuple(row.candidates),
        adapter=row.adapter,
        evidence=tuple(row.evidence),
        tensor_count=row.tensor_count,
        parameter_count=row.parameter_count,
        version=row.version,
        added=row.added,
    )
