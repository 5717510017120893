"""Plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.report.plain import (
    Column,
    Span,
    Table,
    byte_size,
    counted,
    display_width,
    line,
    render_line,
    render_table,
    shortened,
    visible,
)

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@given(ANY_TEXT)
def test_any_text_becomes_one_printable_line(text: str) -> None:
    """Whatever a file is called, what is printed has no control character, no line break and nothing unencodable."""
    shown = visible(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert visible(shown) == shown


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    """ASCII text is shown unchanged, backslashes and brackets included."""
    assert visible(text) == text
    assert render_line(line(text)) == text.rstrip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb", r"a\nb"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("\x9b31m", r"\x9b31m"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("模型 é", "模型 é"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """Terminal sequences, direction overrides, invisible characters and foreign bytes are written out."""
    assert visible(text) == shown
    assert Span(text).text == shown


def test_table() -> None:
    """Columns are two spaces apart, numbers to the right, and wide characters take their two cells."""
    table = Table(
        (Column("name"), Column("size", right=True), Column("tag")),
        (line("a", "1", ""), line("模型", "1,000", "x"), line("evil\nname", "", "y")),
    )
    assert list(render_table(table)) == [
        "name         size  tag",
        "a               1",
        "模型        1,000  x",
        r"evil\nname         y",
    ]
    assert list(render_table(Table((Column("only"),), ()))) == ["only"]


@pytest.mark.parametrize(("text", "width"), [("", 0), ("abc", 3), ("模", 2), ("e\u0301", 1), ("ｗ", 2), ("é", 1)])
def test_display_width(text: str, width: int) -> None:
    """A wide character takes two cells of a terminal, a combining one none."""
    assert display_width(text) == width


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2_133_000_000, "2.1 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_byte_size(nbytes: int, text: str) -> None:
    """Sizes are told in the decimal unit that leaves the fewest digits."""
    assert byte_size(nbytes) == text


def test_words() -> None:
    """Numbers agree with their nouns, and long texts are cut with an ellipsis."""
    assert (counted(1, "file"), counted(1143, "tensor")) == ("1 file", "1,143 tensors")
    assert counted(2, "record fits", "records fit") == "2 records fit"
    assert (shortened("abcdef", 6), shortened("abcdefg", 6)) == ("abcdef", "abcde…")
