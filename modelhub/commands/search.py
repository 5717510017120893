"""``modelhub search``: the catalog's records by their words."""

from __future__ import annotations

import re
from typing import Any

import click

from modelhub.commands import ExitCode, reporting_in
from modelhub.commands.filters import answer_found, catalog_option, filtered, open_catalog
from modelhub.report.plain import counted
from modelhub.report.sink import Sink

_DIGEST = re.compile(r"(?:0x)?[0-9a-fA-F]{8,64}")


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
        answer_found(opened, entries, filters, sink)
    sink.note(counted(len(entries), "record fits", "records fit"))
    if not entries and len(text) == 1 and _DIGEST.fullmatch(text[0]):
        sink.note(f"for the beginning of a digest: 'modelhub list --digest {text[0]}'")
    return ExitCode.OK
