"""Where a command's words go: data to standard output or a file, everything else to standard error.

Commands never print. They hand values to a :class:`Sink`, which knows whether a person, a program or a file is
reading. rich is loaded only where a stream is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from modelhub.errors import AccessDenied, NotFound, SourceError, WouldOverwrite
from modelhub.report.plain import Line, Span, Table, line, render_line, render_table

if TYPE_CHECKING:
    from modelhub.report.human import ByteProgress, Terminal

Format = Literal["human", "json", "jsonl", "sarif", "csv"]


class Sink:
    """The output of one command. A context manager: an ``-o`` file appears only when the command got to its end.

    *output* is the path of the file that takes the data (``None`` or ``-``: standard output). *verbosity* is
    negative for ``-q``, else the number of ``-v``.
    """

    def __init__(self, format: Format = "human", output: str | None = None, verbosity: int = 0) -> None:
        self.format = format
        self.verbosity = verbosity
        self._output = None if output == "-" else output
        self._file: ReplacingFile | None = None
        self._objects: list[Mapping[str, Any]] = []
        self._terminals: dict[int, Terminal | None] = {}
        self._bar: ByteProgress | None = None

    def __enter__(self) -> Sink:
        if self._output is not None:
            self._file = ReplacingFile(self._output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if kind is None:
                self._file.commit()
            else:
                self._file.discard()

    @property
    def machine(self) -> bool:
        """Whether a program reads: hand :meth:`add` plain objects, not lines."""
        return self.format != "human"

    def add(self, value: Mapping[str, Any]) -> None:
        """One object of the answer: its own line of ``jsonl`` at once, or kept for :meth:`document`."""
        if self.format == "jsonl":
            from modelhub.report.json import dumps

            self._write(dumps(value) + "\n")
        else:
            self._objects.append(value)

    def document(self, schema: str, key: str, **fields: object) -> None:
        """The whole answer: with ``json`` an object with *schema*, *fields* and, as *key*, all that was added.

        With ``sarif`` it is a SARIF log of the scan reports that were added; no other answer has that format. With
        ``csv`` nothing is written: see :meth:`rows`.
        """
        if self.format == "json":
            from modelhub.report.json import dumps

            self._write(dumps({"schema": schema, **fields, key: self._objects}, indent=True) + "\n")
        elif self.format == "sarif":
            from modelhub.report.json import SCAN_SCHEMA, dumps
            from modelhub.report.sarif import sarif_log

            assert schema == SCAN_SCHEMA, "only scan reports can be told as SARIF"
            self._write(dumps(sarif_log(self._objects), indent=True) + "\n")

    def rows(self, names: Sequence[str]) -> None:
        """With ``csv``, the whole answer: the fields *names* of all that was added, in columns of these names."""
        if self.format == "csv":
            from modelhub.report.csv import csv_rows

            for row in csv_rows(names, self._objects):
                self._write(row)

    def lines(self, lines: Iterable[Line]) -> None:
        """Print lines of the answer for people."""
        terminal = self._terminal(sys.stdout) if self._file is None else None
        with self._bar_hidden() if terminal else nullcontext():
            for spans in lines:
                if terminal:
                    terminal.print_line(spans)
                else:
                    self._write(render_line(spans) + "\n")

    def table(self, table: Table) -> None:
        """Print a table of the answer for people."""
        terminal = self._terminal(sys.stdout) if self._file is None else None
        if terminal:
            with self._bar_hidden():
                terminal.print_table(table)
        else:
            self._write("".join(row + "\n" for row in render_table(table)))

    def note(self, *parts: str | Span, level: int = 0) -> None:
        """Say something beside the answer on standard error, unless the user asked for less than *level*."""
        if self.verbosity >= level and sys.stderr is not None:
            spans = line(*parts)
            terminal = self._terminal(sys.stderr)
            with self._bar_hidden():
                if terminal:
                    terminal.print_line(spans)
                else:
                    sys.stderr.write(render_line(spans) + "\n")

    def warn(self, text: str) -> None:
        """Say, even with ``-q``, that something went wrong."""
        self.note(Span("warning: ", "unknown"), text, level=-1)

    def trace(self, error: BaseException) -> None:
        """Show where *error* came from, if the user asked for that with ``-vv`` or ``MODELHUB_DEBUG``."""
        if wants_traceback(self.verbosity):
            for text in traceback_lines(error):
                self.note(text)

    @contextmanager
    def progress(self) -> Iterator[ByteProgress | None]:
        """A bar of bytes, shown once a file has begun; ``None`` where standard error is no terminal or with ``-q``."""
        if self.verbosity < 0 or self._terminal(sys.stderr) is None:
            yield None
            return
        from modelhub.report.human import ByteProgress

        self._bar = bar = ByteProgress(sys.stderr)
        try:
            yield bar
        finally:
            self._bar = None
            bar.stop()

    def _bar_hidden(self) -> Any:
        return self._bar.hidden() if self._bar is not None else nullcontext()

    def _terminal(self, stream: TextIO | None) -> Terminal | None:
        """*stream* as a terminal, ``None`` where it is none."""
        if stream is None:
            return None
        if id(stream) not in self._terminals:
            self._terminals[id(stream)] = None
            if stream.isatty() and os.environ.get("TERM") != "dumb":
                from modelhub.report.human import Terminal

                self._terminals[id(stream)] = Terminal(stream)
        return self._terminals[id(stream)]

    def _write(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text)
        elif sys.stdout is None:
            raise SourceError("standard output is closed: there is nowhere to write the answer")
        else:
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise SourceError(f"standard output cannot be written: {error.strerror}") from error


def _refuse_a_model(path: str) -> None:
    """Refuse to replace what looks like a model: ``-o *.ckpt`` would otherwise cost the first of them."""
    from modelhub.source import MODEL_EXTENSIONS

    if os.path.splitext(path)[1].lower() in MODEL_EXTENSIONS and os.path.lexists(path):
        raise WouldOverwrite(
            f"{path}: looks like a model, and is not replaced by an answer", hint="give -o another name"
        )


def wants_traceback(verbosity: int) -> bool:
    return verbosity >= 2 or bool(os.environ.get("MODELHUB_DEBUG"))


def traceback_lines(error: BaseException) -> list[str]:
    import traceback

    return "".join(traceback.format_exception(error)).splitlines()


class ReplacingFile:
    """A text file that takes the place of *path* in one step when it is complete.

    What is not a regular file (a pipe, ``/dev/stdout``) is written to as it is. A symbolic link stays one.
    """

    def __init__(self, path: str) -> None:
        self._name = path or "''"
        _refuse_a_model(path)
        self._target = path
        self._temporary: str | None = None
        if path and (os.path.isfile(path) or not os.path.exists(path)):
            self._target = os.path.realpath(path)
            self._temporary = f"{self._target}.{os.urandom(4).hex()}.partial"
        try:
            self._stream = open(  # noqa: SIM115 (closed by commit or discard)
                self._temporary or self._target,
                "x" if self._temporary else "w",
                encoding="utf-8",
                errors="backslashreplace",
                newline="\n",
            )
        except OSError as error:
            raise self._failed(error) from error

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError as error:
            raise self._failed(error) from error

    def commit(self) -> None:
        """Make the file's content durable and give it its name."""
        try:
            self._stream.flush()
            if self._temporary is not None:
                os.fsync(self._stream.fileno())
            self._stream.close()
            if self._temporary is not None:
                os.replace(self._temporary, self._target)
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise self._failed(error) from error
            raise

    def discard(self) -> None:
        """Leave everything as it was before."""
        with suppress(OSError):
            self._stream.close()
        if self._temporary is not None:
            with suppress(OSError):
                os.unlink(self._temporary)

    def _failed(self, error: OSError) -> SourceError:
        kind: type[SourceError] = SourceError
        if isinstance(error, FileNotFoundError):
            kind = NotFound
        elif isinstance(error, PermissionError):
            kind = AccessDenied
        return kind(f"{self._name}: the answer cannot be written there: {error.strerror}")
