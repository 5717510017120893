"""``modelhub search``: the catalog's records by their words."""

from __future__ import annotations

from typing import Any

import click

from modelhub.commands import ExitCode, reporting_in
from modelhub.commands.filters import answer_entries, catalog_option, filtered, open_catalog
from modelhub.report.plain import counted
from modelhub.report.sink import Sink


@click.command("search")
@click.argument("text", metavar="TEXT...", nargs=-1, required=True)
@filtered
@catalog_option
@reporting_in("csv")
def command(*, text: tuple[str, ...], filters: dict[str, Any], catalog: str | None, sink: Sink) -> int:
    """Find the records in which every word of TEXT occurs: in the name, a path, a tag, the notes, a trigger word, a
    side file or the metadata."""
    from modelhub.db import Query

    with open_catalog(catalog, sink) as opened:
        entries = opened.entries(Query(text=" ".join(text), **filters))
    answer_entries(entries, sink)
    sink.note(counted(len(entries), "record fits", "records fit"))
    return ExitCode.OK
