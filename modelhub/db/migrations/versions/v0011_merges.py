"""How often SQLite's full-text indexes are made one again of the pieces that transactions leave."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

_PIECES = 16
"""Pieces of one size that become one; 4 where nothing is said, by which a word of a first sync's is written twice as
often. The most that FTS5 takes (sqlite.org/fts5.html, "automerge")."""


def upgrade() -> None:
    """Let the pieces be merged seldom: a search looks into some more of them, which takes microseconds."""
    if op.get_bind().dialect.name != "sqlite":
        return
    for table in ("search_about", "search_words"):
        op.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('automerge', {_PIECES})")
