"""``modelhub note``: what the user writes on a model."""

from __future__ import annotations

import sys

import click

from modelhub.commands import STDIN, ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink

_LONGEST = 1 << 20


@click.command("note")
@click.argument("selector", metavar="RECORD")
@click.argument("text", metavar="TEXT", required=False)
@click.option("--append", is_flag=True, help="Add TEXT under the notes that are there.")
@click.option("--clear", is_flag=True, help="Take the notes away.")
@catalog_option
@reporting
def command(*, selector: str, text: str | None, append: bool, clear: bool, catalog: str | None, sink: Sink) -> int:
    """Let TEXT be the notes of RECORD (see 'modelhub show') and of all its versions; - reads standard input.

    'modelhub show' shows them, 'modelhub search' finds their words.
    """
    if (text is None) != clear or (append and clear):
        raise click.UsageError("Give TEXT, with or without --append, or --clear.", ctx=click.get_current_context())
    if text == STDIN:
        text = sys.stdin.read(_LONGEST + 1).rstrip("\n")
    if text is not None and len(text) > _LONGEST:
        raise click.UsageError(f"Notes are up to {_LONGEST:,} characters.", ctx=click.get_current_context())
    with open_catalog(catalog, sink) as opened:
        entry = opened.note(selector, text or "", append=append)
    answer_entries([entry], sink)
    return ExitCode.OK
