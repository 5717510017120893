"""Reading the catalog: which records fit, and what is known of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, case, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from modelhub.db import full_text
from modelhub.db.artifacts import HOLDER
from modelhub.db.bulk import chunks
from modelhub.db.entries import SORTS, Entry, Query
from modelhub.db.schema import (
    BY_NAME,
    collection,
    collection_member,
    content,
    content_digest,
    image,
    location,
    record,
    record_tag,
    scan_report,
    side_file,
)
from modelhub.db.text import name_key, path_key, storable, stored_path
from modelhub.errors import CatalogError, Conflict
from modelhub.source import FileStat

_NAMED = 20  # collections that an error names

VERDICTS = ("safe", "unknown", "suspicious", "unsafe")
"""The labels of :class:`modelhub.scan.findings.Verdict`, from best to worst, known here without the scanner."""

HEX = frozenset("0123456789abcdef")

ALGORITHMS = ("sha256", "autov1", "autov2", "autov3", "blake3", "crc32", "tensors")
"""What may stand before a digest; see :mod:`modelhub.source.digests`. AutoV2 is the beginning of the SHA-256."""


_SPEAKER = record.alias("speaker")  # the record under which what a user wrote on the artifact is kept
_RATED, _PLACED = record.alias("rated"), location.alias("placed")

NARROWING = ("kind", "architecture", "variant", "prediction_type", "precision", "verdict", "container")
"""The fields of a record of which a query names values."""

_ENTRIES = select(
    record.c.id,
    HOLDER.label("artifact"),
    record.c.name,
    record.c.kind,
    record.c.architecture,
    record.c.variant,
    record.c.prediction_type,
    record.c.precision,
    record.c.container,
    record.c.verdict,
    content.c.size,
    content.c.sha256.label("digest"),
    select(location.c.id)
    .where(location.c.content_id == content.c.id, location.c.live_key.is_not(None))
    .order_by(location.c.state, location.c.id.desc())  # live before offline
    .limit(1)
    .correlate(content)
    .scalar_subquery()
    .label("place"),
    _SPEAKER.c.rating,
    record.c.added,
    record.c.triggers,
    select(side_file.c.path)
    .join(image, image.c.side_file_id == side_file.c.id)
    .where(side_file.c.content_id == content.c.id, side_file.c.ended.is_(None))
    .order_by(side_file.c.dialect.desc(), side_file.c.id)  # a preview before any other picture
    .limit(1)
    .correlate(content)
    .scalar_subquery()
    .label("preview"),
    content.c.problem,
).select_from(record.join(content, record.c.content_id == content.c.id).join(_SPEAKER, _SPEAKER.c.id == HOLDER))


_RANK = case({label: rank for rank, label in enumerate(VERDICTS)}, value=record.c.verdict, else_=-1)
_EARLIER = location.alias("earlier")
_HAS_EARLIER = (
    select(_EARLIER.c.id)
    .where(
        _EARLIER.c.content_id == location.c.content_id,
        _EARLIER.c.live_key.is_not(None),
        _EARLIER.c.path < location.c.path,
    )
    .correlate(location)
    .exists()
)

# The statements asked once per file of a library are built once: building costs more than asking.
_NEWEST_SCAN = (
    select(func.max(scan_report.c.id)).where(scan_report.c.content_id == content.c.id).correlate(content)
).scalar_subquery()
_UNCHANGED = (
    _ENTRIES.join(location, location.c.content_id == content.c.id)
    .join(scan_report, scan_report.c.id == _NEWEST_SCAN)
    .where(
        location.c.live_key == bindparam("live_key"),
        location.c.size == bindparam("size"),
        location.c.mtime_ns == bindparam("mtime_ns"),
        location.c.device == bindparam("device"),
        location.c.inode == bindparam("inode"),
        location.c.proven,
        content.c.sha256.is_not(None),
        scan_report.c.policy_version == bindparam("policy_version"),
        scan_report.c.version == bindparam("version"),
    )
)
_TAGS = (
    select(record_tag.c.record_id, record_tag.c.tag)
    .where(record_tag.c.record_id.in_(bindparam("ids", expanding=True)))
    .order_by(record_tag.c.tag)
)
_PLACES = select(location.c.id, location.c.path, location.c.state).where(
    location.c.id.in_(bindparam("ids", expanding=True))
)


def unchanged(connection: Connection, stat: FileStat, policy_version: str, version: str) -> list[Entry]:
    """The entry of the bytes at ``stat.path``, if they are as recorded and were last scanned by these versions."""
    asked = {**stamp(stat), "live_key": path_key(stat.path), "policy_version": policy_version, "version": version}
    return _load(connection, _UNCHANGED, asked)


def stamp(stat: FileStat) -> dict[str, int | str]:
    """What a file system said of a file, by the columns of ``location``."""
    return {"size": stat.size, "mtime_ns": str(stat.mtime_ns), "device": str(stat.dev), "inode": str(stat.ino)}


def entries(connection: Connection, *conditions: ColumnElement[bool]) -> list[Entry]:
    """The records for which all of *conditions* hold, by id."""
    return _load(connection, _ENTRIES.where(*conditions).order_by(record.c.id))


def matching(connection: Connection, query: Query) -> list[Entry]:
    """The records that fit *query*, in its order."""
    wanted = _ordered(select(record.c.id).where(*_conditions(connection, query)), query)
    for name, number in (("limit", query.limit), ("offset", query.offset)):
        if number is not None and not 0 <= number < 2**63:
            raise CatalogError(f"{number}: the {name} is a number from 0 on, of at most 63 bits")
    if query.limit is not None:
        wanted = wanted.limit(query.limit)
    if query.offset:
        wanted = wanted.offset(query.offset)
    ids = list(connection.scalars(wanted))
    found: dict[int, Entry] = {}
    for chunk in chunks(ids):
        found |= {entry.id: entry for entry in _load(connection, _ENTRIES.where(record.c.id.in_(chunk)))}
    return [found[each] for each in ids]


def _is_somewhere() -> ColumnElement[bool]:
    """Whether the record's bytes lie at some path now."""
    lying = select(location.c.id).where(location.c.content_id == record.c.content_id, location.c.live_key.is_not(None))
    return lying.correlate(record).exists()


def digest_begins(text: str) -> ColumnElement[bool]:
    """Whether a digest of the record's bytes, computed or claimed, begins with *text*: hex digits, any number of them.
    An algorithm may stand before them (``sha256:``, ``autov2:``, ``blake3:`` ...), and then only its digests count.
    """
    algorithm, _, prefix = text.strip().lower().rpartition(":")
    prefix = prefix.removeprefix("0x")  # as ModelSpec writes them
    if not prefix or not HEX.issuperset(prefix) or (algorithm and algorithm not in ALGORITHMS):
        raise CatalogError(f"{text}: not the beginning of a digest")
    ways: list[ColumnElement[bool]] = []
    if algorithm in ("", "sha256", "autov2"):
        own = select(content.c.id).where(content.c.sha256 >= prefix, content.c.sha256 < prefix + "g")
        ways.append(record.c.content_id.in_(own))
    others = select(content_digest.c.content_id).where(
        content_digest.c.value >= prefix, content_digest.c.value < prefix + "g"
    )
    if algorithm:
        others = others.where(content_digest.c.algorithm == algorithm)
    ways.append(record.c.content_id.in_(others))
    return or_(*ways)


def _conditions(connection: Connection, query: Query) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for verdict in _several(query.verdict):
        if verdict not in VERDICTS:
            raise CatalogError(f"{verdict}: verdicts are {', '.join(VERDICTS)}")
    named = ((name, _several(getattr(query, name))) for name in NARROWING)
    conditions += [record.c[name].in_(values) for name, values in named if values]
    if query.rating is not None:
        conditions.append(_kept_under(select(_RATED.c.id).where(_RATED.c.rating >= query.rating)))
    if query.folder is not None:
        conditions.append(record.c.content_id.in_(_below(query.folder)))
    conditions += [
        _kept_under(select(record_tag.c.record_id).where(record_tag.c.tag == tag_of(tag)))
        for tag in _several(query.tag)
    ]
    conditions += [
        _kept_under(
            select(collection_member.c.record_id).where(
                collection_member.c.collection_id == collection_named(connection, name)
            )
        )
        for name in _several(query.collection)
    ]
    if query.digest:
        conditions.append(digest_begins(query.digest))
    if query.broken:
        conditions.append(record.c.content_id.in_(select(content.c.id).where(content.c.problem.is_not(None))))
    if not query.gone and query.sort.removeprefix("-") != "path":  # which lists what lies somewhere, see _ordered
        conditions.append(_is_somewhere())
    return conditions + full_text.conditions(connection, query.text or "")


def _below(folder: str) -> Select[int]:
    """The contents of which a file, or folder of several, lies at the path *folder* or below it."""
    below = stored_path(folder.rstrip(os.sep) + os.sep)
    begins = func.substr(_PLACED.c.path, 1, len(below)) == below  # LIKE knows no case in SQLite
    is_there = _PLACED.c.live_key.is_not(None)
    return select(_PLACED.c.content_id).where(is_there, begins | (_PLACED.c.live_key == path_key(folder)))


def values_of(connection: Connection, name: str) -> list[str]:
    """What records have as *name*, one of :data:`NARROWING`, each once."""
    column = record.c[name]
    return [each for each in connection.scalars(select(column).distinct().order_by(column)) if each is not None]


def _kept_under(holders: Select[int]) -> ColumnElement[bool]:
    """Whether a record's artifact is kept under one of *holders*; each half of it has an index."""
    return or_(record.c.id.in_(holders), record.c.artifact_id.in_(holders))


def collection_named(connection: Connection, name: str) -> int:
    """The id of the collection *name*. Raises :class:`Conflict`, naming those that are there, when there is none."""
    found = connection.scalar(select(collection.c.id).where(collection.c.name_key == name_key(name)))
    if found is None:
        names = list(connection.scalars(select(collection.c.name).order_by(collection.c.name).limit(_NAMED)))
        hint = f"there are {', '.join(names)}" if names else "'modelhub collection create NAME' makes one"
        raise Conflict(f"{name}: there is no such collection", hint=hint)
    return found


def _several(wanted: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else tuple(wanted or ())


def _ordered(wanted: Select[int], query: Query) -> Select[int]:
    """*wanted* in the order of *query*; those that are equal in it by name."""
    name = query.sort.removeprefix("-")
    if name not in SORTS:
        raise CatalogError(f"{query.sort}: records are sorted by one of {', '.join(SORTS)}")
    key: ColumnElement[Any]
    if name == "size":
        key, wanted = content.c.size, wanted.join_from(record, content, record.c.content_id == content.c.id)
    elif name == "rating":
        key, wanted = _SPEAKER.c.rating, wanted.join_from(record, _SPEAKER, _SPEAKER.c.id == HOLDER)
    elif name == "path":
        first = and_(location.c.content_id == record.c.content_id, location.c.live_key.is_not(None), ~_HAS_EARLIER)
        key, wanted = location.c.path, wanted.join_from(record, location, first, isouter=query.gone)
    else:
        key = {"name": BY_NAME, "added": record.c.id, "verdict": _RANK}.get(name, record.c[name])
    order = key.desc() if query.sort.startswith("-") else key.asc()
    if name == "path" and not query.gone:  # no two have the same
        return wanted.order_by(order)
    if name in ("name", "added"):  # ids are given in the order of adding, and times only to the second
        return wanted.order_by(order, record.c.id)
    order = order.nulls_last() if query.sort.startswith("-") else order.nulls_first()
    return wanted.order_by(order, BY_NAME, record.c.id)


def _load(
    connection: Connection, statement: Select[*tuple[Any, ...]], parameters: Mapping[str, object] | None = None
) -> list[Entry]:
    rows = [row._asdict() for row in connection.execute(statement, parameters)]
    tags: dict[int, list[str]] = {}
    for record_id, tag in _in_chunks(connection, _TAGS, sorted({row["artifact"] for row in rows})):
        tags.setdefault(record_id, []).append(tag)
    placed = [row["place"] for row in rows if row["place"] is not None]
    places = {each: (path, state) for each, path, state in _in_chunks(connection, _PLACES, placed)}
    entries = []
    for row in rows:
        path, state = places.get(row.pop("place"), (None, "gone"))
        row |= {"tags": tuple(tags.get(row["artifact"], ())), "triggers": tuple(row["triggers"])}
        entries.append(Entry(**row, path=path, state=state))
    return entries


def _in_chunks(
    connection: Connection, statement: Select[*tuple[Any, ...]], ids: Sequence[int]
) -> Iterator[Row[*tuple[Any, ...]]]:
    for chunk in chunks(ids):
        yield from connection.execute(statement, {"ids": chunk})


def tag_of(text: str) -> str:
    """*text* as a tag: lower case, single spaces, :func:`~modelhub.db.text.storable`."""
    return storable(" ".join(text.split()).lower())
