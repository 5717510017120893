"""Indexes by which short words are found at once, and lists made in the order of paths."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Index places that are alive by path, and what SQLite's index of parts of three characters does not tell: what
    texts end in, and texts with other characters than those that can be listed. PostgreSQL has indexes for the latter,
    and none for paths, which may be longer than it can index."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute("CREATE INDEX location_by_path ON location (path, content_id) WHERE live_key IS NOT NULL")
    op.execute("CREATE VIRTUAL TABLE search_about_parts USING fts5vocab(search_about, row)")
    op.execute("CREATE INDEX search_about_ends ON search_text (substr(about, -2))")
    op.execute(
        "CREATE INDEX search_about_odd ON search_text (content_id) WHERE length(about) < length(CAST(about AS BLOB))"
    )
