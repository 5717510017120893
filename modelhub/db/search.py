"""Reading the catalog: which records fit, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, bindparam, case, delete, func, insert, or_, select
from sqlalchemy.sql.elements import ColumnElement

from modelhub.db.entries import SORTS, Entry, Query
from modelhub.db.schema import (
    content,
    identification,
    location,
    record,
    record_tag,
    scan_report,
    search_text,
)
from modelhub.db.text import distinct_words, path_key, sought, storable
from modelhub.db.triggers import trigger_words
from modelhub.errors import CatalogError
from modelhub.source import FileStat

INDEXED = 2 << 20
"""Characters of a file's metadata that are made searchable: all of it but for files made to be absurd."""

MOST_WORDS = 64
LONGEST_WORD = 1000
"""Bounds of a search; SQLite refuses patterns of 50,000 bytes and conditions 1,000 deep (sqlite.org/limits.html)."""

_CHUNK = 500  # values in one IN (...), below every database's bound on parameters

VERDICTS = ("safe", "unknown", "suspicious", "unsafe")
"""The labels of :class:`modelhub.scan.findings.Verdict`, from best to worst, known here without the scanner."""

HEX = frozenset("0123456789abcdef")


def is_newest(table: Table) -> ColumnElement[bool]:
    """Whether a row of *table* is the last one appended for its content."""
    other = table.alias()
    return table.c.id == (
        select(func.max(other.c.id)).where(other.c.content_id == content.c.id).correlate(content).scalar_subquery()
    )


_ENTRIES = (
    select(
        record.c.id,
        record.c.name,
        identification.c.kind,
        identification.c.architecture,
        identification.c.variant,
        identification.c.prediction_type,
        identification.c.precision,
        scan_report.c.container,
        scan_report.c.verdict,
        content.c.size,
        content.c.sha256.label("digest"),
        select(location.c.path)
        .where(location.c.content_id == content.c.id, location.c.live_key.is_not(None))
        .order_by(location.c.id.desc())
        .limit(1)
        .correlate(content)
        .scalar_subquery()
        .label("path"),
        record.c.added,
    )
    .join_from(record, content, record.c.content_id == content.c.id)
    .join(scan_report, (scan_report.c.content_id == content.c.id) & is_newest(scan_report))
    .join(identification, (identification.c.content_id == content.c.id) & is_newest(identification))
)


# The statements asked once per file of a library are built once: building costs more than asking.
_UNCHANGED = _ENTRIES.join(location, location.c.content_id == content.c.id).where(
    location.c.live_key == bindparam("live_key"),
    location.c.size == bindparam("size"),
    location.c.mtime_ns == bindparam("mtime_ns"),
    location.c.device == bindparam("device"),
    location.c.inode == bindparam("inode"),
    scan_report.c.policy_version == bindparam("policy_version"),
    scan_report.c.version == bindparam("version"),
)
_TAGS = (
    select(record_tag.c.record_id, record_tag.c.tag)
    .where(record_tag.c.record_id.in_(bindparam("ids", expanding=True)))
    .order_by(record_tag.c.tag)
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
    statement = _ENTRIES.where(*_conditions(query)).order_by(*_order(query.sort))
    for name, number in (("limit", query.limit), ("offset", query.offset)):
        if number is not None and not 0 <= number < 2**63:
            raise CatalogError(f"{number}: the {name} is a number from 0 on, of at most 63 bits")
    if query.limit is not None:
        statement = statement.limit(query.limit)
    if query.offset:
        statement = statement.offset(query.offset)
    return _load(connection, statement)


def has_live_location() -> ColumnElement[bool]:
    """Whether the content's bytes lie at some path now."""
    return (
        select(location.c.id)
        .where(location.c.content_id == content.c.id, location.c.live_key.is_not(None))
        .correlate(content)
        .exists()
    )


def digest_begins(text: str) -> ColumnElement[bool]:
    """Whether the content's SHA-256 begins with *text*, hex digits with or without ``sha256:`` before them."""
    prefix = text.strip().lower().removeprefix("sha256:")
    if not prefix or not HEX.issuperset(prefix):
        raise CatalogError(f"{text}: not the beginning of a SHA-256 digest")
    return (content.c.sha256 >= prefix) & (content.c.sha256 < prefix + "g")


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for verdict in _several(query.verdict):
        if verdict not in VERDICTS:
            raise CatalogError(f"{verdict}: verdicts are {', '.join(VERDICTS)}")
    for column, wanted in (
        (identification.c.kind, query.kind),
        (identification.c.architecture, query.architecture),
        (scan_report.c.verdict, query.verdict),
        (scan_report.c.container, query.container),
    ):
        if values := _several(wanted):
            conditions.append(column.in_(values))
    conditions += [
        select(record_tag.c.tag)
        .where(record_tag.c.record_id == record.c.id, record_tag.c.tag == tag_of(tag))
        .correlate(record)
        .exists()
        for tag in _several(query.tag)
    ]
    if query.digest:
        conditions.append(digest_begins(query.digest))
    if not query.gone:
        conditions.append(has_live_location())
    conditions += _text_conditions(query.text or "")
    return conditions


def _several(wanted: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else tuple(wanted or ())


def _text_conditions(text: str) -> list[ColumnElement[bool]]:
    words = set(text.split())
    if len(words) > MOST_WORDS or any(len(word) > LONGEST_WORD for word in words):
        raise CatalogError(f"a search takes up to {MOST_WORDS} words of up to {LONGEST_WORD:,} characters")
    found = select(search_text.c.content_id).where(search_text.c.content_id == content.c.id)
    for word in words:
        places = product((search_text.c.about, search_text.c.words), sorted(sought(word)))
        found = found.where(or_(*(place.contains(spelling, autoescape=True) for place, spelling in places)))
    return [found.correlate(content).exists()] if words else []


def _order(sort: str) -> Sequence[ColumnElement[Any]]:
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise CatalogError(f"{sort}: records are sorted by one of {', '.join(SORTS)}")
    keys: dict[str, ColumnElement[Any]] = {
        "name": func.lower(record.c.name),
        "added": record.c.id,  # ids are given in the order of adding, and times only to the second
        "size": content.c.size,
        "kind": func.coalesce(identification.c.kind, ""),
        "architecture": func.coalesce(identification.c.architecture, ""),
        "verdict": case({label: rank for rank, label in enumerate(VERDICTS)}, value=scan_report.c.verdict, else_=-1),
    }
    key = keys[name]
    return (key.desc() if sort.startswith("-") else key.asc(), keys["name"], record.c.id)


def _load(
    connection: Connection, statement: Select[*tuple[Any, ...]], parameters: Mapping[str, object] | None = None
) -> list[Entry]:
    rows = connection.execute(statement, parameters).all()
    tags = _tags(connection, [row.id for row in rows])
    return [Entry(**row._asdict(), tags=tuple(tags.get(row.id, ()))) for row in rows]


def _tags(connection: Connection, ids: Sequence[int]) -> dict[int, list[str]]:
    tags: dict[int, list[str]] = {}
    for start in range(0, len(ids), _CHUNK):
        rows = connection.execute(_TAGS, {"ids": ids[start : start + _CHUNK]})
        for record_id, tag in rows:
            tags.setdefault(record_id, []).append(tag)
    return tags


def tag_of(text: str) -> str:
    """*text* as a tag: lower case, single spaces, :func:`~modelhub.db.text.storable`."""
    return storable(" ".join(text.split()).lower())


def index_metadata(connection: Connection, content_id: int, metadata: Mapping[str, str]) -> None:
    """Make the words of *metadata* searchable, in place of those before."""
    pairs = [text for pair in metadata.items() for text in pair]
    words = distinct_words([*trigger_words(metadata), *pairs], INDEXED)
    connection.execute(delete(search_text).where(search_text.c.content_id == content_id))
    connection.execute(insert(search_text).values(content_id=content_id, about="", words=words))


def index_record(connection: Connection, content_id: int) -> None:
    """Make the name, notes, tags and live paths of *content_id*'s record searchable, in place of those before."""
    texts: list[str] = []
    for statement in (
        select(record.c.name, record.c.notes).where(record.c.content_id == content_id),
        select(record_tag.c.tag).join(record).where(record.c.content_id == content_id),
        select(location.c.path).where(location.c.content_id == content_id, location.c.live_key.is_not(None)),
    ):
        texts += _flat(connection.execute(statement).all())
    connection.execute(
        search_text.update().where(search_text.c.content_id == content_id).values(about=distinct_words(texts, INDEXED))
    )


def _flat(rows: Iterable[Row[*tuple[Any, ...]]]) -> list[str]:
    return [text for row in rows for text in row]
