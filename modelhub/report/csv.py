"""Plain objects as CSV by RFC 4180: a row of names, then a row for each, lines ending with CR and LF.

Text is exact, quoted where a comma, a quotation mark or a line break stands in it; several values of one field are
joined by ``; ``; what is not known is empty; bytes of a file name that are not UTF-8 appear as ``\\udcff``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def csv_rows(names: Sequence[str], objects: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a table with the columns *names*, one after the other, each with its end."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    for row in (names, *([_cell(each.get(name)) for name in names] for each in objects)):
        writer.writerow(row)
        yield text.getvalue().encode("utf-8", "backslashreplace").decode()
        text.seek(0)
        text.truncate()


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Mapping():
            return "; ".join(f"{name}={_cell(item)}" for name, item in value.items())
        case list() | tuple():
            return "; ".join(map(_cell, value))
        case _:
            return str(value)
