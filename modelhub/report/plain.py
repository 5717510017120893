"""Text for people, as values, and its plainest form.

What is printed is built from :class:`Span`, and a span makes its text harmless when it is made: names and messages come
from untrusted files, and a file name must not be able to steer a terminal. Styles are words (``"unsafe"``,
``"dim"``); plain text ignores them and :mod:`modelhub.report.human` turns them into colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Style = Literal["", "safe", "unknown", "suspicious", "unsafe", "bold", "dim"]


def visible(text: str) -> str:
    r"""*text* on one line and without a character that a terminal would obey or that shows nothing.

    Control and formatting characters become escapes (``"\x1b"``, ``"\n"``, ``"\u202e"``), and a byte of a file name
    that is not UTF-8 becomes ``"\xff"``.

    >>> print(visible("a\x1b[31m\n\udcff"))
    a\x1b[31m\n\xff
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def shortened(text: str, limit: int) -> str:
    """*text*, cut to *limit* characters with an ellipsis where it is longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line in one style; its text has been made :func:`visible`."""

    text: str
    style: Style = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", visible(self.text))


Line = tuple[Span, ...]
"""One line of output."""


def line(*parts: str | Span) -> Line:
    """A line of *parts*; a string is a span without style."""
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


class Column(NamedTuple):
    """A column's title and side; ``wraps`` says where a terminal that is too narrow may break the text."""

    title: str
    right: bool = False
    wraps: bool = False


class Table(NamedTuple):
    """Rows of as many cells as there are columns."""

    columns: tuple[Column, ...]
    rows: tuple[Line, ...]


def render_line(spans: Line) -> str:
    """The line's text."""
    return "".join(span.text for span in spans).rstrip()


def render_table(table: Table) -> Iterator[str]:
    """The table's lines: a row of titles, then the rows, in columns two spaces apart and never cut."""
    titles = tuple(column.title for column in table.columns)
    rows = [titles, *(tuple(cell.text for cell in row) for row in table.rows)]
    widths = [max(display_width(row[i]) for row in rows) for i in range(len(titles))]
    for row in rows:
        cells = (
            _padded(text, width, column.right) for text, width, column in zip(row, widths, table.columns, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def display_width(text: str) -> int:
    """Terminal cells that *text* takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fields(pairs: Iterable[tuple[str, str | None]], indent: int = 2) -> Iterator[Line]:
    """``name  value`` lines with the values aligned; pairs without a value are left out."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        yield line(" " * indent, Span(f"{name:<{width}}", "dim"), "  ", value)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``"1 file"``, ``"1,143 tensors"``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def byte_size(nbytes: int) -> str:
    """*nbytes* in the decimal unit people read it in: ``"512 B"``, ``"2.1 GB"``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
