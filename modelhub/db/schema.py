"""The catalog's tables.

Bytes, places and names are three things. ``content`` is bytes: known by their SHA-256 or, until somebody reads them
all, by the file that holds them; ``location`` is a path that holds them now (``ended`` is null) or held them once, in a
``library_root`` or anywhere; ``record`` is what a user names, tags and writes notes on, several of them together where
they are one artifact. What a program said of bytes (``scan_report``, ``identification``, ``derivation``,
``smoke_run``) is appended together with that program's version and never rewritten: the newest row is in force, the
others are the history. What the user says (``override``) is kept apart.

The tables here and those that the migrations make are compared by a test.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Named,
    String,
    Table,
    TypedColumns,
    cast,
    func,
)

from modelhub.db.column_types import Json, PathText, SafeName, SafeText

REVISION = "0011"
"""The migration that makes the tables below; a catalog at this revision is opened without loading alembic."""

VERSION_TABLE = "modelhub_schema"
"""Where alembic keeps the revision; the name tells a catalog from any other database that uses alembic."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class ContentColumns(TypedColumns):
    """Bytes. ``sha256`` is null until they have been read whole, and unique after that.

    ``header_sha256`` and ``sample_sha256`` are what :func:`modelhub.syncing.reading.prints_of` gives: they
    tell different bytes apart, and prove nothing of equal ones. ``problem`` is what is wrong with the file, in words.
    ``metadata_sha256`` is the fingerprint of the metadata in ``header``.
    """

    id = Column(Integer, primary_key=True)
    sha256: Named[str | None] = Column(String(64), unique=True)
    size: Named[int] = Column(BigInteger)
    header_sha256: Named[str | None] = Column(String(64), index=True)
    sample_sha256: Named[str | None] = Column(String(64))
    container: Named[str | None] = Column(SafeName)
    problem: Named[str | None] = Column(SafeText)
    metadata_sha256: Named[str | None] = Column(String(64))
    added: Named[str] = Column(String(32))


class ContentDigestColumns(TypedColumns):
    """A digest of the bytes beside their SHA-256, lower-case hex.

    ``origin`` is ``computed`` or ``claimed``, ``source`` who claims it: a metadata key, a side file.
    """

    content_id: Named[int] = Column(ForeignKey("content.id"), primary_key=True)
    algorithm: Named[str] = Column(String(32), primary_key=True)
    origin: Named[str] = Column(String(16), primary_key=True)
    source: Named[str] = Column(SafeName, primary_key=True)
    value: Named[str] = Column(String(128), index=True)
    added: Named[str] = Column(String(32))


class ComponentColumns(TypedColumns):
    """A component of the bytes; see :class:`modelhub.source.digests.Part`. Without a name it is of no component, or the
    file is one as a whole."""

    content_id: Named[int] = Column(ForeignKey("content.id"), primary_key=True)
    name: Named[str] = Column(String(32), primary_key=True)
    is_cast: Named[bool] = Column(Boolean, primary_key=True)
    fingerprint: Named[str] = Column(String(64), index=True)
    nbytes: Named[int] = Column(BigInteger)


class LibraryRootColumns(TypedColumns):
    """A folder that the catalog follows. ``device`` and ``inode`` are the folder's own when it was last seen, by which
    an empty mount point is told from an emptied folder."""

    id = Column(Integer, primary_key=True)
    path: Named[str] = Column(PathText)
    path_key: Named[str] = Column(String(64), unique=True)
    dialect: Named[str] = Column(String(16))
    follow_links: Named[bool] = Column(Boolean)
    device: Named[str] = Column(String(40))
    inode: Named[str] = Column(String(40))
    online: Named[bool] = Column(Boolean)
    added: Named[str] = Column(String(32))
    synced: Named[str | None] = Column(String(32))


class LocationColumns(TypedColumns):
    """A path and, to notice changes without reading, what the file system said of it.

    ``live_key`` (the path's digest) is null for what was once: so no two live rows share a path, in every database.
    ``mtime_ns``, ``device`` and ``inode`` are text because file systems use more than 63 bits. ``state`` is ``live``,
    ``offline`` (still there, as far as anybody knows), ``quarantined`` (downloaded, and not let in) or, for what was
    once, ``missing``, ``moved``, ``replaced`` or ``removed``. ``proven`` is false where the bytes were
    told by their header and not by reading them or following their inode. ``link`` is ``symlink`` for a link to a file
    elsewhere, else empty.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    root_id: Named[int | None] = Column(ForeignKey("library_root.id"), index=True)
    path: Named[str] = Column(PathText)
    live_key: Named[str | None] = Column(String(64), unique=True)
    is_folder: Named[bool] = Column(Boolean)
    size: Named[int] = Column(BigInteger)
    mtime_ns: Named[str] = Column(String(40))
    device: Named[str] = Column(String(40))
    inode: Named[str] = Column(String(40))
    state: Named[str] = Column(String(16), index=True)
    link: Named[str] = Column(String(16))
    proven: Named[bool] = Column(Boolean)
    added: Named[str] = Column(String(32))
    ended: Named[str | None] = Column(String(32))


class ChangeColumns(TypedColumns):
    """One thing that a sync found: ``kind`` is ``added``, ``moved``, ``replaced``, ``returned``, ``vanished`` ..."""

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    kind: Named[str] = Column(String(16))
    path: Named[str] = Column(PathText)
    previous: Named[str | None] = Column(PathText)
    at: Named[str] = Column(String(32), index=True)


class RecordColumns(TypedColumns):
    """What the user sees and owns.

    ``artifact_id`` is the record that keeps the tags, notes, rating and collections of all that are one artifact with
    it (null: itself); see :mod:`modelhub.db.artifacts`.
    ``kind`` to ``precision`` are what lists show: the user's override or else the newest identification's; ``verdict``
    and ``container`` those of the newest scan. :func:`modelhub.db.facts.settle` keeps them so. ``triggers`` are the
    first of the trigger words, which :func:`modelhub.db.full_text.put_about` keeps.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), unique=True)
    artifact_id: Named[int | None] = Column(ForeignKey("record.id"), index=True)
    name: Named[str] = Column(SafeName, index=True)
    notes: Named[str] = Column(SafeText)
    rating: Named[int | None] = Column(Integer)
    kind: Named[str | None] = Column(SafeName, index=True)
    architecture: Named[str | None] = Column(SafeName, index=True)
    variant: Named[str | None] = Column(SafeName)
    prediction_type: Named[str | None] = Column(SafeName)
    precision: Named[str | None] = Column(SafeName)
    container: Named[str | None] = Column(SafeName)
    verdict: Named[str | None] = Column(String(16), index=True)
    triggers: Named[Any] = Column(Json, nullable=False)
    added: Named[str] = Column(String(32))


class OverrideColumns(TypedColumns):
    """What the user says a fact is, whatever the files say."""

    record_id: Named[int] = Column(ForeignKey("record.id"), primary_key=True)
    field: Named[str] = Column(String(32), primary_key=True)
    value: Named[str | None] = Column(SafeName)
    added: Named[str] = Column(String(32))


class RecordTagColumns(TypedColumns):
    record_id: Named[int] = Column(ForeignKey("record.id"), primary_key=True)
    tag: Named[str] = Column(SafeName, primary_key=True, index=True)


class CollectionColumns(TypedColumns):
    """A named set of artifacts. ``name_key`` is the digest of the name as names are compared."""

    id = Column(Integer, primary_key=True)
    name: Named[str] = Column(SafeName)
    name_key: Named[str] = Column(String(64), unique=True)
    added: Named[str] = Column(String(32))


class CollectionMemberColumns(TypedColumns):
    """``record_id`` is the record that its artifact's tags are kept under."""

    collection_id: Named[int] = Column(ForeignKey("collection.id"), primary_key=True)
    record_id: Named[int] = Column(ForeignKey("record.id"), primary_key=True, index=True)
    added: Named[str] = Column(String(32))


class ScanReportColumns(TypedColumns):
    """One scan of the bytes. ``fingerprint`` covers everything but the versions and the time."""

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    verdict: Named[str] = Column(String(16))
    container: Named[str | None] = Column(SafeName)
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
    kind: Named[str | None] = Column(SafeName)
    architecture: Named[str | None] = Column(SafeName)
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


class LayoutColumns(TypedColumns):
    """Names, element types and shapes, as many files share them; see :mod:`modelhub.db.layouts`."""

    id = Column(Integer, primary_key=True)
    digest: Named[str] = Column(String(64), unique=True)
    packed: Named[bytes] = Column(LargeBinary)


class HeaderColumns(TypedColumns):
    """What the bytes say of themselves: the text pairs of their header, whole, and what identification goes by.

    ``layout_id`` and ``observation`` are the two parts of :func:`modelhub.identify.stored`; see
    :mod:`modelhub.db.layouts`.
    """

    content_id: Named[int] = Column(ForeignKey("content.id"), primary_key=True, autoincrement=False)
    layout_id: Named[int | None] = Column(ForeignKey("layout.id"), index=True)
    metadata: Named[Any] = Column(Json, nullable=False)
    observation: Named[str | None] = Column(SafeText)


class SideFileColumns(TypedColumns):
    """A small file of another program beside a model, and what it claims (:class:`modelhub.sidefiles.Claims`, as JSON).

    ``model_key`` is the ``live_key`` of the place beside which it stood when it was read. ``dialect`` is that of its
    content, ``problem`` what is wrong with it. ``read`` is when it was read last; ``ended`` when the model was found to
    be elsewhere and the file was not, from when on its claims are the last that are known.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    root_id: Named[int | None] = Column(ForeignKey("library_root.id"), index=True)
    path: Named[str] = Column(PathText)
    model_key: Named[str] = Column(String(64))
    dialect: Named[str] = Column(String(32))
    size: Named[int] = Column(BigInteger)
    mtime_ns: Named[str] = Column(String(40))
    claims: Named[Any] = Column(Json, nullable=False)
    problem: Named[str | None] = Column(SafeText)
    added: Named[str] = Column(String(32))
    read: Named[str] = Column(String(32))
    ended: Named[str | None] = Column(String(32))


class ImageColumns(TypedColumns):
    """A picture or film among the side files: its media type by its bytes, and its SHA-256 once somebody asked."""

    side_file_id: Named[int] = Column(ForeignKey("side_file.id"), primary_key=True, autoincrement=False)
    media_type: Named[str] = Column(String(32))
    sha256: Named[str | None] = Column(String(64))


class DownloadColumns(TypedColumns):
    """Where bytes were downloaded from, once for each time.

    ``address`` is pinned to a commit where it is the Hub's, ``asked`` the revision that was asked for (null: that which
    nobody has to name). ``files`` are those that the bytes came in, as the source told them: ``path``, ``size``,
    ``sha256`` and ``etag``. ``salvaged``: the bytes are the tensors alone of what lies there.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    address: Named[str] = Column(SafeText)
    asked: Named[str | None] = Column(SafeName)
    files: Named[Any] = Column(Json, nullable=False)
    salvaged: Named[bool] = Column(Boolean)
    version: Named[str] = Column(SafeName)
    added: Named[str] = Column(String(32))


class RemoteClaimColumns(TypedColumns):
    """What a place on the network claims of bytes (:class:`modelhub.sidefiles.Claims`, as JSON).

    ``origin`` is whose words they are (``huggingface``, ``civitai``), ``extra`` what such a place alone says. ``read``
    is when it was asked last.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    origin: Named[str] = Column(SafeName)
    address: Named[str] = Column(SafeText)
    claims: Named[Any] = Column(Json, nullable=False)
    extra: Named[Any] = Column(Json, nullable=False)
    added: Named[str] = Column(String(32))
    read: Named[str] = Column(String(32))


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


class SmokeRunColumns(TypedColumns):
    """One smoke test of the bytes, an adapter's on those of ``base_id`` (null: on none of the catalog).

    ``asked`` is what two tests must share to be comparable; ``accepted``: its image is the reference of later ones.
    """

    id = Column(Integer, primary_key=True)
    content_id: Named[int] = Column(ForeignKey("content.id"), index=True)
    base_id: Named[int | None] = Column(ForeignKey("content.id"), index=True)
    outcome: Named[str] = Column(String(16))
    sentence: Named[str] = Column(SafeText)
    asked: Named[Any] = Column(Json, nullable=False)
    checks: Named[Any] = Column(Json, nullable=False)
    facts: Named[Any] = Column(Json, nullable=False)
    image_sha256: Named[str | None] = Column(String(64))
    image_path: Named[str | None] = Column(PathText)
    accepted: Named[bool] = Column(Boolean)
    version: Named[str] = Column(SafeName)
    added: Named[str] = Column(String(32))


content = Table("content", metadata, ContentColumns)
content_digest = Table("content_digest", metadata, ContentDigestColumns)
component = Table("component", metadata, ComponentColumns)
library_root = Table("library_root", metadata, LibraryRootColumns)
location = Table("location", metadata, LocationColumns)
change = Table("change", metadata, ChangeColumns)
record = Table("record", metadata, RecordColumns)
override = Table("override", metadata, OverrideColumns)
record_tag = Table("record_tag", metadata, RecordTagColumns)
collection = Table("collection", metadata, CollectionColumns)
collection_member = Table("collection_member", metadata, CollectionMemberColumns)
scan_report = Table("scan_report", metadata, ScanReportColumns)
finding = Table("finding", metadata, FindingColumns)
identification = Table("identification", metadata, IdentificationColumns)
layout = Table("layout", metadata, LayoutColumns)
header = Table("header", metadata, HeaderColumns)
side_file = Table("side_file", metadata, SideFileColumns)
image = Table("image", metadata, ImageColumns)
download = Table("download", metadata, DownloadColumns)
remote_claim = Table("remote_claim", metadata, RemoteClaimColumns)
search_text = Table("search_text", metadata, SearchTextColumns)
derivation = Table("derivation", metadata, DerivationColumns)
derivation_input = Table("derivation_input", metadata, DerivationInputColumns)
smoke_run = Table("smoke_run", metadata, SmokeRunColumns)

BY_NAME = func.lower(record.c.name)
"""What records are listed by."""
BEYOND_ASCII = func.length(search_text.c.words) < func.length(cast(search_text.c.words, LargeBinary))
"""Whether a header has words in other letters than SQLite's index of words tells apart."""
ODD = func.length(search_text.c.about) < func.length(cast(search_text.c.about, LargeBinary))
"""Whether what is said of a record has other characters than those that SQLite's index of parts is asked for."""

_IS_LIVE = location.c.live_key.is_not(None)
Index("ix_record_listed", BY_NAME, record.c.id, record.c.content_id)
Index("ix_location_live", location.c.content_id, sqlite_where=_IS_LIVE, postgresql_where=_IS_LIVE)
