"""The components of contents, and their fingerprints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Nothing is known of any content's components yet."""
    op.create_table(
        "component",
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("is_cast", sa.Boolean(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("nbytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_component_content_id")),
        sa.PrimaryKeyConstraint("content_id", "name", "is_cast", name=op.f("pk_component")),
    )
    op.create_index(op.f("ix_component_fingerprint"), "component", ["fingerprint"])
