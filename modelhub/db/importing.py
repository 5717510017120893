"""Taking the lines of an export into a catalog, empty or not.

Rows keep their order and, in an empty catalog, their ids. Bytes that both know, by their SHA-256 or by a place with the
same path, device, inode, size and time, become one as :mod:`modelhub.db.merging` has it: nothing that a user wrote is
lost on either side, and where both say something, the catalog's own word stays. What both say alike is there once, so
that taking in the same file again changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table

from modelhub.db.arrivals import Arrivals
from modelhub.db.exporting import FORMAT, VERSION
from modelhub.db.rows import CARRIED, from_plain
from modelhub.db.schema import REVISION
from modelhub.errors import CatalogError, SchemaTooNew


def take_in(connection: Connection, lines: Iterable[str]) -> int:
    """Take in the export that *lines* are; returns the number of its rows. Raises :class:`CatalogError`, naming the
    line, for what is no whole export; the caller undoes what was written before."""
    arrivals = Arrivals(connection)
    for number, table, said in _rows(lines):
        try:
            arrivals.put(table, from_plain(table, said))
        except CatalogError as error:
            raise CatalogError(f"line {number}: {error}") from None
    arrivals.settle()
    return arrivals.number


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, Table, Mapping[str, Any]]]:
    """The rows of the export: line number, table and values; checks that the file is whole."""
    tables = {table.name: table for table in CARRIED}
    counts: Counter[str] = Counter()
    ended = False
    last = -1
    for number, text in enumerate(lines, 1):
        value = _parsed(text, number)
        if ended:
            raise CatalogError(f"line {number}: something follows the end")
        if number == 1:
            _check_head(value)
        elif "end" in value:
            if value["end"] != dict(counts):
                raise CatalogError(f"line {number}: the numbers of rows are others than the export was made with")
            ended = True
        else:
            table, row = tables.get(str(value.get("table"))), value.get("row")
            if table is None or not isinstance(row, dict):
                raise CatalogError(f"line {number}: not a row of a table")
            if CARRIED.index(table) < last:
                raise CatalogError(f"line {number}: a row of {table.name} comes too late")
            last = CARRIED.index(table)
            counts[table.name] += 1
            yield number, table, row
    if not ended:
        raise CatalogError("the file was cut off: its last line is missing" if counts else "the file is no export")


def _parsed(text: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CatalogError(f"line {number}: not a line of an export")
    return value


def _check_head(value: Mapping[str, Any]) -> None:
    if value.get("format") != FORMAT:
        raise CatalogError("line 1: not an export of a catalog")
    version, schema = value.get("version"), value.get("schema")
    if not isinstance(version, int) or not isinstance(schema, str) or version < 1:
        raise CatalogError("line 1: not an export of a catalog")
    if version > VERSION or schema > REVISION:
        raise SchemaTooNew(f"it was written by a newer modelhub (its schema is {schema[:20]})")
