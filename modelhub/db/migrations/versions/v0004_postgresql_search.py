"""PostgreSQL's counterparts of SQLite's full-text indexes; an SQLite catalog stays as it is."""

from __future__ import annotations

from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0004"
down_revision = "0003"

_WORDS = r"""
CREATE FUNCTION modelhub_words(said text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN octet_length(said) < 1048576 THEN array_to_tsvector(array_remove(string_to_array(
  regexp_replace(regexp_replace(said COLLATE "C", '[^a-z0-9]+', ' ', 'g'), '[a-z0-9]{250}', '\& ', 'g'), ' '), '')) END
"""
"""The Latin words of a text, long ones in pieces of 250 letters. PostgreSQL's own parser would take addresses, paths
and versions for one word each; no tsvector holds more than a mebibyte of words (postgresql.org/docs/15, section
12.11), so a longer text has none."""


def upgrade() -> None:
    """Make the indexes over ``search_text``: words of what files say, parts of words of what people write."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    connection.exec_driver_sql(_WORDS)
    op.execute("CREATE INDEX search_words ON search_text USING gin (modelhub_words(words))")
    op.execute("CREATE INDEX search_words_long ON search_text (content_id) WHERE octet_length(words) >= 1048576")
    try:
        with connection.begin_nested():
            op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            op.execute("CREATE INDEX search_about ON search_text USING gin (about gin_trgm_ops)")
    except DBAPIError:  # it is not installed, or this user may not add it: names are then searched without an index
        pass
