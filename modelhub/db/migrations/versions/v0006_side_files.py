"""Side files: what they claim, the pictures among them, and trigger words where lists find them."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from modelhub.db.triggers import listed, trigger_words

revision = "0006"
down_revision = "0005"

_CHUNK = 200  # headers held in memory: some have a megabyte of tags


def upgrade() -> None:
    """Add the tables, and settle the trigger words of the records that are there."""
    op.create_table(
        "side_file",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("root_id", sa.Integer(), nullable=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("model_key", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.String(40), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("added", sa.String(32), nullable=False),
        sa.Column("read", sa.String(32), nullable=False),
        sa.Column("ended", sa.String(32), nullable=True),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_side_file_content_id")),
        sa.ForeignKeyConstraint(["root_id"], ["library_root.id"], name=op.f("fk_side_file_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_side_file")),
    )
    op.create_index(op.f("ix_side_file_content_id"), "side_file", ["content_id"])
    op.create_index(op.f("ix_side_file_root_id"), "side_file", ["root_id"])
    op.create_table(
        "image",
        sa.Column("side_file_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("media_type", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(["side_file_id"], ["side_file.id"], name=op.f("fk_image_side_file_id")),
        sa.PrimaryKeyConstraint("side_file_id", name=op.f("pk_image")),
    )
    op.add_column("record", sa.Column("triggers", sa.Text(), nullable=False, server_default="[]"))
    _settle_triggers()


def _settle_triggers() -> None:
    connection = op.get_bind()
    record = sa.table("record", sa.column("content_id"), sa.column("triggers"))
    header = sa.table("header", sa.column("content_id"), sa.column("metadata"))
    ids = list(connection.scalars(sa.select(header.c.content_id)))
    for start in range(0, len(ids), _CHUNK):
        chosen = sa.select(header).where(header.c.content_id.in_(ids[start : start + _CHUNK]))
        rows = [
            (row.content_id, listed(trigger_words(json.loads(row.metadata) or {})))
            for row in connection.execute(chosen)
        ]
        found = [{"content": content_id, "words": json.dumps(words)} for content_id, words in rows if words]
        if found:
            where = record.c.content_id == sa.bindparam("content")
            connection.execute(sa.update(record).where(where).values(triggers=sa.bindparam("words")), found)
