"""The catalog's tables.

Bytes, places and names are three things. ``content`` is bytes, known by their digest and nothing else; ``location``
is a path that holds them now (``ended`` is null) or held them once; ``record`` is what a user names, tags and writes
notes on. What a program said of bytes (``scan_report``, ``identification``, ``derivation``) is appended together
with that program's version and never rewritten: the newest row is in force, the others are the history.

The tables here and those that the migrations make are compared by a test.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Integer,
    MetaData,
    Named,
    String,
    Table,
    Text,
    TypedColumns,
    TypeDecorator,
)

from modelhub.db.text import path_of, plain, storable, stored_path

REVISION = "0001"
"""The migration that makes the tables below; a catalog at this revision is opened without loading alembic."""

VERSION_TABLE = "modelhub_schema"
"""Where alembic keeps the revision; the name tells a catalog from any other database that uses alembic."""

NAME_LENGTH = 255
"""Longest name and tag, in characters."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class SafeText(TypeDecorator[str]):
    """Text from a file, of any length; see :func:`modelhub.db.text.storable`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class SafeName(TypeDecorator[str]):
    """Short text, a name or a tag; cut at :data:`NAME_LENGTH`."""

    impl = String(NAME_LENGTH)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)[:NAME_LENGTH]


class PathText(TypeDecorator[str]):
    """A path; comes back exactly as it was given."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else stored_path(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else path_of(value)


class Json(TypeDecorator[Any]):
    """A value as JSON text; see :func:`modelhub.db.text.plain`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(plain(value), separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class ContentColumns(TypedColumns):
    """Bytes. ``metadata_sha256`` is the fingerprint of the rows in ``metadata_entry``."""

    id = Column(Integer, primary_key=True)
    sha256: Named[str] = Column(String(64), unique=True)
    size: Named[int] = Column(BigInteger)
    metadata_sha256: Named[str | None] = Column(String(64))
    added: Named[str] = Column(String(32))


class LocationColumns(TypedColumns):
    """A path and, to notice changes without reading, what the file system said of it.

    ``live_key`` (the path's digest) is null for what was once: so no two live rows share a path, in every database.
    ``mtime_ns``, ``device`` and ``inode`` are text because file systems use more than 63 bits.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    path: Named[str] = Column(PathText)
    live_key: Named[str | None] = Column(String(64), unique=True)
    is_folder: Named[bool] = Column(Boolean)
    size: Named[int] = Column(BigInteger)
    mtime_ns: Named[str] = Column(String(40))
    device: Named[str] = Column(String(40))
    inode: Named[str] = Column(String(40))
    added: Named[str] = Column(String(32))
    ended: Named[str | None] = Column(String(32))


class RecordColumns(TypedColumns):
    """What the user sees and owns."""

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), unique=True)
    name: Named[str] = Column(SafeName, index=True)
    notes: Named[str] = Column(SafeText)
    added: Named[str] = Column(String(32), index=True)


class RecordTagColumns(TypedColumns):
    record_id: Named[int] = Column(ForeignKey("record.id"), primary_key=True)
    tag: Named[str] = Column(SafeName, primary_key=True, index=True)


class ScanReportColumns(TypedColumns):
    """One scan of the bytes. ``fingerprint`` covers everything but the versions and the time."""

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    verdict: Named[str] = Column(String(16), index=True)
    container: Named[str | None] = Column(SafeName, index=True)
    complete: Named[bool] = Column(Boolean)
    skipped: Named[Any] = Column(Json, nullable=False)
    policy_version: Named[str] = Column(SafeName)
    version: Named[str] = Column(SafeName)
    fingerprint: Named[str] = Column(String(64))
    added: Named[str] = Column(String(32))


class FindingColumns(TypedColumns):
    id = Column(Integer, primary_key=True)
    report_id: Named[int] = Column(ForeignKey("scan_report.id"), index=True)
    rule: Named[str] = Column(SafeName, index=True)
    severity: Named[str] = Column(String(16))
    confidence: Named[str] = Column(String(16))
    message: Named[str] = Column(SafeText)
    member: Named[str | None] = Column(SafeText)
    byte_offset: Named[int | None] = Column(BigInteger)
    evidence: Named[str | None] = Column(SafeText)


class IdentificationColumns(TypedColumns):
    """One answer to which model the bytes are. ``fingerprint`` covers everything but the version and the time."""

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    kind: Named[str | None] = Column(SafeName, index=True)
    architecture: Named[str | None] = Column(SafeName, index=True)
    variant: Named[str | None] = Column(SafeName)
    prediction_type: Named[str | None] = Column(SafeName)
    precision: Named[str | None] = Column(SafeName)
    tensor_count: Named[int | None] = Column(BigInteger)
    parameter_count: Named[int | None] = Column(BigInteger)
    components: Named[Any] = Column(Json, nullable=False)
    adapter: Named[Any] = Column(Json, nullable=False)
    evidence: Named[Any] = Column(Json, nullable=False)
    candidates: Named[Any] = Column(Json, nullable=False)
    version: Named[str] = Column(SafeName)
    fingerprint: Named[str] = Column(String(64))
    added: Named[str] = Column(String(32))


class MetadataEntryColumns(TypedColumns):
    """The text pairs of the bytes' header, whole."""

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    key: Named[str] = Column(SafeText)
    value: Named[str] = Column(SafeText)


class SearchTextColumns(TypedColumns):
    """What a search looks at: ``about`` from the record and its paths, ``words`` from the header."""

    content_id: Named[int] = Column(ForeignKey("content.id"), primary_key=True, autoincrement=False)
    about: Named[str] = Column(SafeText)
    words: Named[str] = Column(SafeText)


class DerivationColumns(TypedColumns):
    """One step of lineage. Digests, not references: either end may be bytes that no catalog has seen."""

    id = Column(Integer, primary_key=True)
    kind: Named[str] = Column(SafeName)
    output: Named[str] = Column(String(64), index=True)
    params: Named[Any] = Column(Json, nullable=False)
    version: Named[str] = Column(SafeName)
    fingerprint: Named[str] = Column(String(64), unique=True)
    added: Named[str] = Column(String(32))


class DerivationInputColumns(TypedColumns):
    derivation_id: Named[int] = Column(ForeignKey("derivation.id"), primary_key=True)
    position: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    sha256: Named[str] = Column(String(64), index=True)
    role: Named[str] = Column(SafeName)


content = Table("content", metadata, ContentColumns)
location = Table("location", metadata, LocationColumns)
record = Table("record", metadata, RecordColumns)
record_tag = Table("record_tag", metadata, RecordTagColumns)
scan_report = Table("scan_report", metadata, ScanReportColumns)
finding = Table("finding", metadata, FindingColumns)
identification = Table("identification", metadata, IdentificationColumns)
metadata_entry = Table("metadata_entry", metadata, MetadataEntryColumns)
search_text = Table("search_text", metadata, SearchTextColumns)
derivation = Table("derivation", metadata, DerivationColumns)
derivation_input = Table("derivation_input", metadata, DerivationInputColumns)
