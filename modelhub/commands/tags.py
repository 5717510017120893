"""``modelhub tags``: the tags that there are."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting_in
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import counted, line
from modelhub.report.sink import Sink


@click.command("tags")
@catalog_option
@reporting_in("csv")
def command(*, catalog: str | None, sink: Sink) -> int:
    """List the tags that 'modelhub tag' has set, and how many models have each."""
    from modelhub.report.json import TAGS_SCHEMA

    with open_catalog(catalog, sink) as opened:
        tags = opened.tags()
    if sink.machine:
        for tag, number in tags.items():
            sink.add({"tag": tag, "size": number})
        sink.document(TAGS_SCHEMA, "tags")
        sink.rows(("tag", "size"))
    else:
        sink.lines(line(f"{tag}  ({counted(number, 'model')})") for tag, number in tags.items())
    sink.note(counted(len(tags), "tag"))
    return ExitCode.OK
