"""The terminal form of what is printed: colours, tables that fit the window, a progress bar.

Only loaded where standard output or standard error is a terminal. ``NO_COLOR`` is respected by rich itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from modelhub.report.plain import Line, Table, visible

_STYLES = {
    "": "",
    "safe": "green",
    "unknown": "yellow",
    "suspicious": "bold yellow",
    "unsafe": "bold red",
    "bold": "bold",
    "dim": "dim",
}


def _text(spans: Line) -> Text:
    """*spans* as rich text; never parsed as markup."""
    return Text.assemble(*((span.text, _STYLES[span.style]) for span in spans))


class Terminal:
    """One of the two output streams, where it is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(
            file=stream, force_terminal=True, highlight=False, markup=False, emoji=False, legacy_windows=None
        )

    def print_line(self, spans: Line) -> None:
        """Print one line; the terminal itself wraps it, so that a path can be copied whole."""
        self._console.print(_text(spans), soft_wrap=True)

    def print_table(self, table: Table) -> None:
        """Print *table* as wide as the window allows; long cells are folded, never cut."""
        rich_table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in table.columns:
            rich_table.add_column(
                Text(column.title),
                justify="right" if column.right else "left",
                overflow="fold",
                no_wrap=not column.wraps,
            )
        for row in table.rows:
            rich_table.add_row(*(_text((cell,)) for cell in row))
        self._console.print(rich_table)


class ByteProgress:
    """A bar of bytes on a terminal; gone when the work is done."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None)

    def begin(self, label: str, total: int | None) -> None:
        """Show the bar, from its start, for *label*, of which *total* bytes will be read (``None``: nobody knows)."""
        self._progress.reset(self._task, description=visible(label), total=total)
        self._progress.start()

    def begin_file(self, path: str) -> None:
        """Start the bar over for the file *path*, as long as it is now."""
        try:
            total = os.path.getsize(path) if os.path.isfile(path) else None
        except OSError:
            total = None
        self.begin(os.path.basename(path), total)

    def advance(self, nbytes: int) -> None:
        self._progress.advance(self._task, nbytes)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the screen while something else is written there."""
        running = self._progress.live.is_started
        if running:
            self._progress.stop()
        try:
            yield
        finally:
            if running:
                self._progress.start()

    def stop(self) -> None:
        self._progress.stop()
