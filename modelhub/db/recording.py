"""Writing down what was seen: bytes, where they lie, and what was said of them.

Every function here writes only what differs from the newest of what is there, so that saying a thing twice changes
nothing, and answers whether it wrote anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Insert, Table, bindparam, delete, insert, select, update

from modelhub.db import artifacts, full_text, merging, search
from modelhub.db.clock import now
from modelhub.db.column_types import NAME_LENGTH
from modelhub.db.schema import (
    content,
    finding,
    header,
    identification,
    location,
    record,
    record_tag,
    scan_report,
)
from modelhub.db.text import fingerprint, int64, name_for, path_key
from modelhub.errors import CatalogError
from modelhub.source import Digest, FileStat

if TYPE_CHECKING:  # their packages hold the whole scanner, which listing the catalog has no need of
    from modelhub.identify.base import Identity
    from modelhub.scan.findings import ScanReport


def put_content(connection: Connection, digest: Digest, stat: FileStat) -> int:
    """The id of the content with *digest*, which ``stat.path`` holds: new or known, by its digest or by its file."""
    known = connection.scalar(select(content.c.id).where(content.c.sha256 == digest.sha256))
    here = connection.scalar(
        select(content.c.id)
        .join(location, location.c.content_id == content.c.id)
        .where(
            content.c.sha256.is_(None),
            location.c.live_key == path_key(stat.path),
            *(location.c[name] == value for name, value in search.stamp(stat).items()),
        )
    )
    if here is None:
        if known is not None:
            return known
        return _insert_one(connection, insert(content).values(sha256=digest.sha256, size=stat.size, added=now()))
    if known is None:
        connection.execute(update(content).where(content.c.id == here).values(sha256=digest.sha256))
        return here
    merging.merge(connection, here, known)
    return known


def put_location(
    connection: Connection, content_id: int, stat: FileStat, is_folder: bool, *, state: str = "live"
) -> bool:
    """Let ``stat.path`` hold the content, as a place in this *state*; what it held before is ended there.

    A new path may be an old one renamed: places of the same bytes on the same device whose paths are gone are ended
    as well. A device that is not there (a removable disk, a share) does not match, so nothing is concluded of it.
    """
    key = path_key(stat.path)
    seen = {**search.stamp(stat), "is_folder": is_folder, "state": state, "proven": True}
    live = connection.execute(select(location).where(location.c.live_key == key)).one_or_none()
    if live is not None and live.content_id == content_id:
        if all(getattr(live, name) == value for name, value in seen.items()):
            return False
        connection.execute(update(location).where(location.c.id == live.id).values(seen))
        return True
    if live is not None:
        _end(connection, live.id, "replaced")
        index_record(connection, live.content_id)
    others = select(location.c.id, location.c.path).where(
        location.c.content_id == content_id, location.c.live_key.is_not(None), location.c.device == str(stat.dev)
    )
    for other in connection.execute(others).all():
        if not os.path.lexists(other.path):
            _end(connection, other.id, "moved")
    link = "symlink" if os.path.islink(stat.path) else ""
    connection.execute(
        insert(location).values(content_id=content_id, path=stat.path, live_key=key, link=link, added=now(), **seen)
    )
    return True


def is_quarantined(connection: Connection, content_id: int) -> bool:
    """Whether the content lies in quarantine and nowhere else."""
    states = select(location.c.state).where(location.c.content_id == content_id, location.c.live_key.is_not(None))
    return set(connection.scalars(states)) == {"quarantined"}


def _end(connection: Connection, location_id: int, state: str) -> None:
    connection.execute(
        update(location).where(location.c.id == location_id).values(live_key=None, state=state, ended=now())
    )


def put_scan(connection: Connection, content_id: int, report: ScanReport, version: str) -> bool:
    """Append *report* unless the newest one says the same by the same policy and version."""
    facts = {
        "verdict": report.verdict.label,
        "container": report.container,
        "complete": report.coverage.complete,
        "skipped": report.coverage.skipped,
    }
    findings = [
        {
            "rule": found.rule,
            "severity": found.severity.label,
            "confidence": found.confidence.label,
            "message": found.message,
            "member": found.location.member,
            "byte_offset": int64(found.location.offset),
            "evidence": found.evidence,
        }
        for found in report.findings
    ]
    row = {
        **facts,
        "policy_version": report.policy_version,
        "version": version,
        "fingerprint": fingerprint([facts, findings]),
    }
    newest = connection.execute(
        select(scan_report.c.policy_version, scan_report.c.version, scan_report.c.fingerprint)
        .where(scan_report.c.content_id == content_id)
        .order_by(scan_report.c.id.desc())
        .limit(1)
    ).one_or_none()
    if newest is not None and tuple(newest) == (report.policy_version, version, row["fingerprint"]):
        return False
    report_id = _insert_one(connection, insert(scan_report).values(content_id=content_id, added=now(), **row))
    _insert_all(connection, finding, [{"report_id": report_id, **found} for found in findings])
    return True


def put_identity(
    connection: Connection,
    content_id: int,
    identity: Identity,
    *,
    tensor_count: int | None,
    parameter_count: int | None,
    version: str,
) -> bool:
    """Append *identity* unless the newest one says the same by the same version."""
    facts = {
        "kind": identity.kind,
        "architecture": identity.architecture,
        "variant": identity.variant,
        "prediction_type": identity.prediction_type,
        "precision": identity.precision,
        "components": identity.components,
        "adapter": identity.adapter,
        "evidence": identity.evidence,
        "candidates": identity.candidates,
        "tensor_count": int64(tensor_count),
        "parameter_count": int64(parameter_count),
    }
    row = {**facts, "version": version, "fingerprint": fingerprint(facts)}
    newest = connection.execute(
        select(identification.c.version, identification.c.fingerprint)
        .where(identification.c.content_id == content_id)
        .order_by(identification.c.id.desc())
        .limit(1)
    ).one_or_none()
    if newest is not None and tuple(newest) == (version, row["fingerprint"]):
        return False
    connection.execute(insert(identification).values(content_id=content_id, added=now(), **row))
    return True


def put_metadata(connection: Connection, content_id: int, metadata: Mapping[str, str]) -> bool:
    """Let *metadata* be the content's: what the bytes say of themselves, so there is one version of it."""
    seen = fingerprint(metadata)
    if connection.scalar(select(content.c.metadata_sha256).where(content.c.id == content_id)) == seen:
        return False
    if (
        connection.execute(
            update(header).where(header.c.content_id == content_id).values({"metadata": metadata})
        ).rowcount
        == 0
    ):
        connection.execute(insert(header).values({"content_id": content_id, "metadata": metadata}))
    connection.execute(update(content).where(content.c.id == content_id).values(metadata_sha256=seen))
    full_text.put_words(connection, content_id, metadata)
    return True


_METADATA = select(header.c.metadata).where(header.c.content_id == bindparam("content"))


def metadata_of(connection: Connection, content_id: int) -> dict[str, str]:
    """What the bytes say of themselves."""
    return dict(connection.scalar(_METADATA, {"content": content_id}) or {})


def index_record(connection: Connection, content_id: int) -> None:
    """Make what is said of the content's record searchable, in place of what was said before."""
    index_records(connection, [content_id])


def index_records(connection: Connection, content_ids: Iterable[int]) -> None:
    """:func:`index_record` for all *content_ids* at once."""
    full_text.put_about(connection, ((each, metadata_of(connection, each)) for each in content_ids))


def put_record(connection: Connection, content_id: int, name: str) -> bool:
    """Give the content a record called *name* unless it has one, which keeps its name."""
    if connection.scalar(select(record.c.id).where(record.c.content_id == content_id)) is not None:
        return False
    connection.execute(insert(record).values(content_id=content_id, name=name, notes="", added=now()))
    return True


def record_at(connection: Connection, path: str) -> int | None:
    """The record of the bytes that lie at *path*, as far as the catalog knows."""
    there = select(location.c.content_id).where(location.c.live_key == path_key(path))
    return connection.scalar(select(record.c.id).where(record.c.content_id.in_(there)))


def wanted_tags(tags: Sequence[str]) -> list[str]:
    """*tags* as they are kept. Raises :class:`CatalogError` for what is no tag."""
    wanted = [search.tag_of(tag) for tag in tags]
    for tag in wanted:
        if not tag:
            raise CatalogError("a tag has at least one character")
        if len(tag) > NAME_LENGTH:
            raise CatalogError(f"a tag has at most {NAME_LENGTH} characters: {tag[:40]}...")
    return wanted


def put_tags(connection: Connection, record_id: int, tags: Sequence[str]) -> bool:
    """Add *tags* to the record's artifact; those that it has are left alone."""
    record_id = artifacts.holder_of(connection, record_id)
    has = set(connection.scalars(select(record_tag.c.tag).where(record_tag.c.record_id == record_id)))
    new = [tag for tag in dict.fromkeys(tags) if tag not in has]
    _insert_all(connection, record_tag, [{"record_id": record_id, "tag": tag} for tag in new])
    return bool(new)


def remove_tags(connection: Connection, record_id: int, tags: Sequence[str]) -> bool:
    """Take *tags* from the record's artifact; those that it has not are passed over."""
    record_id = artifacts.holder_of(connection, record_id)
    gone = delete(record_tag).where(record_tag.c.record_id == record_id, record_tag.c.tag.in_(tags))
    return connection.execute(gone).rowcount > 0


OWN = ("name", "rating")
"""What a user sets of a record that no file has a say in."""


def put_own(connection: Connection, record_id: int, values: Mapping[str, str | None]) -> bool:
    """Let the record's name and its artifact's rating be *values*."""
    if "name" in values and not (values["name"] or "").strip():
        raise CatalogError("a record has a name: at least one character")
    if values.get("rating") not in (None, "0", "1", "2", "3", "4", "5"):
        raise CatalogError(f"{values['rating']}: a rating is a number from 0 to 5")
    if "name" in values:
        connection.execute(update(record).where(record.c.id == record_id).values(name=values["name"]))
    if "rating" in values:
        rating = int(values["rating"]) if values["rating"] is not None else None
        holder = artifacts.holder_of(connection, record_id)
        connection.execute(update(record).where(record.c.id == holder).values(rating=rating))
    return bool(values)


def take_own(connection: Connection, record_id: int, name: str) -> bool:
    """Let the record have nothing as *name*, one of :data:`~modelhub.db.facts.USERS`, from its user; it is called after
    its newest place then."""
    if name == "notes":
        return put_notes(connection, record_id, "")
    if name == "rating":
        return put_own(connection, record_id, {"rating": None})
    places = select(location.c.path, location.c.is_folder).join(record, record.c.content_id == location.c.content_id)
    newest = places.order_by(location.c.live_key.is_(None), location.c.id.desc()).limit(1)
    place = connection.execute(newest.where(record.c.id == record_id)).one_or_none()
    return place is not None and put_own(connection, record_id, {"name": name_for(place.path, place.is_folder)})


def put_notes(connection: Connection, record_id: int, notes: str, *, append: bool = False) -> bool:
    """Let *notes* be those of the record's artifact, in place of those before or, with *append*, under them."""
    record_id = artifacts.holder_of(connection, record_id)
    if append:
        before = connection.execute(select(record.c.notes).where(record.c.id == record_id)).scalar_one()
        notes = f"{before}\n{notes}" if before else notes
    changed = update(record).where(record.c.id == record_id, record.c.notes != notes).values(notes=notes)
    return connection.execute(changed).rowcount > 0


def _insert_one(connection: Connection, statement: Insert) -> int:
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return int(key[0])


def _insert_all(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        connection.execute(insert(table), rows)
