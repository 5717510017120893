"""Everything that a catalog holds as lines of JSON, for another catalog or another program.

The first line says what the file is; each of the others is one row, ``{"table": ..., "row": {...}}``, rows after those
that they refer to; the last line counts them, so that a file that was cut off is known as one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from sqlalchemy import Connection, select

from modelhub.db.rows import CARRIED, to_plain
from modelhub.db.schema import REVISION

FORMAT = "modelhub catalog"
VERSION = 1
"""Of the lines' form; what tables there are is said by the schema's revision."""

_AT_ONCE = 200  # rows fetched at a time: those of headers may have megabytes


def export(connection: Connection, write: Callable[[str], object], program: str) -> int:
    """Give *write* every line of the export; returns the number of rows."""
    write(_line({"format": FORMAT, "version": VERSION, "schema": REVISION, "program": program}))
    counts: Counter[str] = Counter()
    for table in CARRIED:
        rows = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_AT_ONCE)
        for row in connection.execute(rows):
            write(_line({"table": table.name, "row": to_plain(table, row)}))
            counts[table.name] += 1
    write(_line({"end": counts}))
    return counts.total()


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
