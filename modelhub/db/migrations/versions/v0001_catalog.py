"""The first catalog: content, locations, records, what was said of them, and lineage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "content",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("metadata_sha256", sa.String(64), nullable=True),
        sa.Column("added", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content")),
        sa.UniqueConstraint("sha256", name=op.f("uq_content_sha256")),
    )
    op.create_table(
        "derivation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(255), nullable=False),
        sa.Column("output", sa.String(64), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_derivation")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_derivation_fingerprint")),
    )
    op.create_index(op.f("ix_derivation_output"), "derivation", ["output"], unique=False)
    op.create_table(
        "derivation_input",
        sa.Column("derivation_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("role", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["derivation_id"], ["derivation.id"], name=op.f("fk_derivation_input_derivation_id")),
        sa.PrimaryKeyConstraint("derivation_id", "position", name=op.f("pk_derivation_input")),
    )
    op.create_index(op.f("ix_derivation_input_sha256"), "derivation_input", ["sha256"], unique=False)
    op.create_table(
        "identification",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(255), nullable=True),
        sa.Column("architecture", sa.String(255), nullable=True),
        sa.Column("variant", sa.String(255), nullable=True),
        sa.Column("prediction_type", sa.String(255), nullable=True),
        sa.Column("precision", sa.String(255), nullable=True),
        sa.Column("tensor_count", sa.BigInteger(), nullable=True),
        sa.Column("parameter_count", sa.BigInteger(), nullable=True),
        sa.Column("components", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("candidates", sa.Text(), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_identification_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identification")),
    )
    op.create_index(op.f("ix_identification_architecture"), "identification", ["architecture"], unique=False)
    op.create_index(op.f("ix_identification_content_id"), "identification", ["content_id"], unique=False)
    op.create_index(op.f("ix_identification_kind"), "identification", ["kind"], unique=False)
    op.create_table(
        "location",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("live_key", sa.String(64), nullable=True),
        sa.Column("is_folder", sa.Boolean(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.String(40), nullable=False),
        sa.Column("device", sa.String(40), nullable=False),
        sa.Column("inode", sa.String(40), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.Column("ended", sa.String(32), nullable=True),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_location_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_location")),
        sa.UniqueConstraint("live_key", name=op.f("uq_location_live_key")),
    )
    op.create_index(op.f("ix_location_content_id"), "location", ["content_id"], unique=False)
    op.create_table(
        "metadata_entry",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_metadata_entry_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metadata_entry")),
    )
    op.create_index(op.f("ix_metadata_entry_content_id"), "metadata_entry", ["content_id"], unique=False)
    op.create_table(
        "record",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_record_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record")),
        sa.UniqueConstraint("content_id", name=op.f("uq_record_content_id")),
    )
    op.create_index(op.f("ix_record_added"), "record", ["added"], unique=False)
    op.create_index(op.f("ix_record_name"), "record", ["name"], unique=False)
    op.create_table(
        "scan_report",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("container", sa.String(255), nullable=True),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("skipped", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.String(255), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_scan_report_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scan_report")),
    )
    op.create_index(op.f("ix_scan_report_container"), "scan_report", ["container"], unique=False)
    op.create_index(op.f("ix_scan_report_content_id"), "scan_report", ["content_id"], unique=False)
    op.create_index(op.f("ix_scan_report_verdict"), "scan_report", ["verdict"], unique=False)
    op.create_table(
        "search_text",
        sa.Column("content_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_search_text_content_id")),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_search_text")),
    )
    op.create_table(
        "finding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("report_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(255), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("confidence", sa.String(16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=True),
        sa.Column("byte_offset", sa.BigInteger(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["report_id"], ["scan_report.id"], name=op.f("fk_finding_report_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
    )
    op.create_index(op.f("ix_finding_report_id"), "finding", ["report_id"], unique=False)
    op.create_index(op.f("ix_finding_rule"), "finding", ["rule"], unique=False)
    op.create_table(
        "record_tag",
        sa.Column("record_id", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name=op.f("fk_record_tag_record_id")),
        sa.PrimaryKeyConstraint("record_id", "tag", name=op.f("pk_record_tag")),
    )
    op.create_index(op.f("ix_record_tag_tag"), "record_tag", ["tag"], unique=False)
