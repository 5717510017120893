"""What smoke tests came to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Nothing has been tested yet."""
    op.create_table(
        "smoke_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("asked", sa.Text(), nullable=False),
        sa.Column("checks", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("image_sha256", sa.String(64), nullable=True),
        sa.Column("image_path", sa.Text(), nullable=True),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_smoke_run_content_id")),
        sa.ForeignKeyConstraint(["base_id"], ["content.id"], name=op.f("fk_smoke_run_base_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_smoke_run")),
    )
    op.create_index(op.f("ix_smoke_run_content_id"), "smoke_run", ["content_id"])
    op.create_index(op.f("ix_smoke_run_base_id"), "smoke_run", ["base_id"])
