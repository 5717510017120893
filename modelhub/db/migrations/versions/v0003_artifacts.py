"""Records that are one artifact, and collections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Every record stays an artifact of its own."""
    with op.batch_alter_table("record") as record:
        record.add_column(sa.Column("artifact_id", sa.Integer(), nullable=True))
        record.create_foreign_key(op.f("fk_record_artifact_id"), "record", ["artifact_id"], ["id"])
        record.create_index(op.f("ix_record_artifact_id"), ["artifact_id"])
    op.create_table(
        "collection",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("name_key", sa.String(64), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collection")),
        sa.UniqueConstraint("name_key", name=op.f("uq_collection_name_key")),
    )
    op.create_table(
        "collection_member",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("record_id", sa.Integer(), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["collection_id"], ["collection.id"], name=op.f("fk_collection_member_collection_id")),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name=op.f("fk_collection_member_record_id")),
        sa.PrimaryKeyConstraint("collection_id", "record_id", name=op.f("pk_collection_member")),
    )
    op.create_index(op.f("ix_collection_member_record_id"), "collection_member", ["record_id"])
