"""Libraries: bytes known by their file until they are read whole, states of places, overrides, digests, full text."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CHUNK = 500
_FACTS = ("kind", "architecture", "variant", "prediction_type", "precision")


def upgrade() -> None:
    """Add what following libraries needs; the rows of before keep their meaning."""
    _make_tables()
    with op.batch_alter_table("content") as content:
        content.alter_column("sha256", existing_type=sa.String(64), nullable=True)
        content.add_column(sa.Column("header_sha256", sa.String(64), nullable=True))
        content.add_column(sa.Column("sample_sha256", sa.String(64), nullable=True))
        content.add_column(sa.Column("container", sa.String(255), nullable=True))
        content.add_column(sa.Column("problem", sa.Text(), nullable=True))
        content.create_index(op.f("ix_content_header_sha256"), ["header_sha256"])
    with op.batch_alter_table("location") as location:
        location.add_column(sa.Column("root_id", sa.Integer(), nullable=True))
        location.add_column(sa.Column("state", sa.String(16), nullable=False, server_default="live"))
        location.add_column(sa.Column("link", sa.String(16), nullable=False, server_default=""))
        location.add_column(sa.Column("proven", sa.Boolean(), nullable=False, server_default=sa.true()))
        location.create_foreign_key(op.f("fk_location_root_id"), "library_root", ["root_id"], ["id"])
        location.create_index(op.f("ix_location_root_id"), ["root_id"])
        location.create_index(op.f("ix_location_state"), ["state"])
    op.execute("UPDATE location SET state = 'missing' WHERE live_key IS NULL")
    with op.batch_alter_table("record") as record:
        record.add_column(sa.Column("rating", sa.Integer(), nullable=True))
        for name in (*_FACTS, "container"):
            record.add_column(sa.Column(name, sa.String(255), nullable=True))
        record.add_column(sa.Column("verdict", sa.String(16), nullable=True))
        for name in ("kind", "architecture", "verdict"):
            record.create_index(op.f(f"ix_record_{name}"), [name])
    _settle_facts()
    _move_metadata()
    op.drop_index(op.f("ix_metadata_entry_content_id"), table_name="metadata_entry")
    op.drop_table("metadata_entry")
    if op.get_bind().dialect.name == "sqlite":
        _make_full_text()


def _make_tables() -> None:
    op.create_table(
        "library_root",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("path_key", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("follow_links", sa.Boolean(), nullable=False),
        sa.Column("device", sa.String(40), nullable=False),
        sa.Column("inode", sa.String(40), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.Column("synced", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_library_root")),
        sa.UniqueConstraint("path_key", name=op.f("uq_library_root_path_key")),
    )
    op.create_table(
        "layout",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_layout")),
        sa.UniqueConstraint("digest", name=op.f("uq_layout_digest")),
    )
    op.create_table(
        "header",
        sa.Column("content_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("layout_id", sa.Integer(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("observation", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_header_content_id")),
        sa.ForeignKeyConstraint(["layout_id"], ["layout.id"], name=op.f("fk_header_layout_id")),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_header")),
    )
    op.create_index(op.f("ix_header_layout_id"), "header", ["layout_id"])
    op.create_table(
        "content_digest",
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("algorithm", sa.String(32), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_content_digest_content_id")),
        sa.PrimaryKeyConstraint("content_id", "algorithm", "origin", "source", name=op.f("pk_content_digest")),
    )
    op.create_index(op.f("ix_content_digest_value"), "content_digest", ["value"])
    op.create_table(
        "change",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_change_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
    )
    op.create_index(op.f("ix_change_content_id"), "change", ["content_id"])
    op.create_index(op.f("ix_change_at"), "change", ["at"])
    op.create_table(
        "override",
        sa.Column("record_id", sa.Integer(), nullable=False),
        sa.Column("field", sa.String(32), nullable=False),
        sa.Column("value", sa.String(255), nullable=True),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name=op.f("fk_override_record_id")),
        sa.PrimaryKeyConstraint("record_id", "field", name=op.f("pk_override")),
    )


def _settle_facts() -> None:
    """Records carry what lists show; nothing is listed from the tables of history any more."""
    for name, table in (
        *((name, "identification") for name in _FACTS),
        ("container", "scan_report"),
        ("verdict", "scan_report"),
    ):
        op.execute(
            f"UPDATE record SET {name} = (SELECT newest.{name} FROM {table} AS newest "
            f"WHERE newest.content_id = record.content_id ORDER BY newest.id DESC LIMIT 1)"
        )
    for table, names in (("identification", ("architecture", "kind")), ("scan_report", ("container", "verdict"))):
        for name in names:
            op.drop_index(op.f(f"ix_{table}_{name}"), table_name=table)


def _move_metadata() -> None:
    """The pairs of ``metadata_entry`` become one JSON object for each content."""
    connection = op.get_bind()
    entries = sa.table("metadata_entry", sa.column("id"), sa.column("content_id"), sa.column("key"), sa.column("value"))
    header = sa.table("header", sa.column("content_id"), sa.column("metadata"))
    content = sa.table("content", sa.column("id"), sa.column("metadata_sha256"))
    ids = list(connection.scalars(sa.select(content.c.id).where(content.c.metadata_sha256.is_not(None))))
    for start in range(0, len(ids), _CHUNK):
        pairs: dict[int, dict[str, str]] = {each: {} for each in ids[start : start + _CHUNK]}
        rows = sa.select(entries.c.content_id, entries.c.key, entries.c.value).order_by(entries.c.id)
        for content_id, key, value in connection.execute(rows.where(entries.c.content_id.in_(list(pairs)))):
            pairs[content_id][key] = value
        values = [
            {"content_id": content_id, "metadata": json.dumps(found, separators=(",", ":"))}
            for content_id, found in pairs.items()
        ]
        connection.execute(sa.insert(header), values)


def _make_full_text() -> None:
    """Indexes over ``search_text``, kept by triggers: parts of words of what people write, words of what files say."""
    op.execute(
        "CREATE VIRTUAL TABLE search_about USING fts5"
        "(about, content='search_text', content_rowid='content_id', tokenize='trigram')"
    )
    op.execute(
        "CREATE VIRTUAL TABLE search_words USING fts5"
        "(words, content='search_text', content_rowid='content_id', tokenize='unicode61', detail=none)"
    )
    for column in ("about", "words"):
        table = f"search_{column}"
        remove = f"INSERT INTO {table} ({table}, rowid, {column}) VALUES ('delete', old.content_id, old.{column});"
        insert = f"INSERT INTO {table} (rowid, {column}) VALUES (new.content_id, new.{column});"
        op.execute(f"CREATE TRIGGER {table}_insert AFTER INSERT ON search_text BEGIN {insert} END")
        op.execute(f"CREATE TRIGGER {table}_delete AFTER DELETE ON search_text BEGIN {remove} END")
        op.execute(
            f"CREATE TRIGGER {table}_update AFTER UPDATE OF {column} ON search_text "
            f"WHEN old.{column} IS NOT new.{column} BEGIN {remove} {insert} END"
        )
        op.execute(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")
