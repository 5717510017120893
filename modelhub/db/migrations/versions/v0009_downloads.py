"""Where bytes were downloaded from, and what places on the network claim of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nothing is known of any content's origin yet: what was fetched before has it in a note beside it."""
    op.create_table(
        "download",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("asked", sa.String(255), nullable=True),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("salvaged", sa.Boolean(), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_download_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_download")),
    )
    op.create_table(
        "remote_claim",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.Column("read", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_remote_claim_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remote_claim")),
    )
    for table in ("download", "remote_claim"):
        op.create_index(op.f(f"ix_{table}_content_id"), table, ["content_id"])
