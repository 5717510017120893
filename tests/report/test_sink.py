"""The sink."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelhub.errors import NotFound, SourceError
from modelhub.report.plain import Column, Span, Table, line
from modelhub.report.sink import Sink


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """json collects what is added and prints it once, in the order schema, fields, list."""
    with Sink("json") as sink:
        sink.add({"a": 1})
        sink.add({"a": 2})
        assert capsys.readouterr().out == ""
        sink.document("modelhub.test/1", "things", complete=True)
    document = json.loads(capsys.readouterr().out)
    assert list(document.items()) == [
        ("schema", "modelhub.test/1"),
        ("complete", True),
        ("things", [{"a": 1}, {"a": 2}]),
    ]


def test_jsonl_is_printed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """jsonl prints each object as it comes, and no document around them."""
    with Sink("jsonl") as sink:
        sink.add({"a": "b\nc"})
        assert capsys.readouterr().out == '{"a": "b\\nc"}\n'
        sink.document("modelhub.test/1", "things")
    assert capsys.readouterr().out == ""


def test_lines_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """For people lines and tables go to standard output without colours where that is no terminal."""
    with Sink() as sink:
        sink.lines([line(Span("UNSAFE", "unsafe"), " x")])
        sink.table(Table((Column("a"), Column("b")), (line("1", "2"),)))
    assert capsys.readouterr().out == "UNSAFE x\na  b\n1  2\n"


@pytest.mark.parametrize(
    ("verbosity", "said"), [(-1, "warning: w\n"), (0, "n\nwarning: w\n"), (1, "d\nn\nwarning: w\n")]
)
def test_verbosity(capsys: pytest.CaptureFixture[str], verbosity: int, said: str) -> None:
    """-q leaves only warnings, -v adds details; all of it on standard error."""
    with Sink(verbosity=verbosity) as sink:
        sink.note("d", level=1)
        sink.note("n")
        sink.warn("w")
    assert capsys.readouterr() == ("", said)


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    """An -o file is not there while it is written, nor after an error; nothing is left beside it."""
    target = tmp_path / "report"
    with Sink("jsonl", str(target)) as sink:
        sink.add({"a": 1})
        assert not target.exists()
    assert target.read_text() == '{"a": 1}\n'
    with pytest.raises(RuntimeError), Sink("jsonl", str(target)) as sink:
        sink.add({"a": 2})
        raise RuntimeError
    assert target.read_text() == '{"a": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """A missing folder, or a folder in the file's place, is a source error that names the file."""
    with pytest.raises(NotFound, match="no/report"), Sink(output=str(tmp_path / "no" / "report")):
        pass
    with pytest.raises(SourceError, match=str(tmp_path)), Sink(output=str(tmp_path)):
        pass


def test_a_closed_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a standard output the answer has nowhere to go, and that is said."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SourceError, match="closed"), Sink() as sink:
        sink.lines([line("x")])


def test_no_bar_without_a_terminal() -> None:
    """No bar is shown where standard error is not a terminal."""
    with Sink() as sink, sink.progress() as bar:
        assert bar is None
