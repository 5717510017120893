"""``modelhub list``: the catalog's records."""

from __future__ import annotations

from typing import Any

import click

from modelhub.commands import ExitCode, reporting_in
from modelhub.commands.filters import answer_found, catalog_option, filtered, open_catalog
from modelhub.report.plain import counted
from modelhub.report.sink import Sink


@click.command("list")
@filtered
@catalog_option
@reporting_in("csv")
def command(*, filters: dict[str, Any], catalog: str | None, sink: Sink) -> int:
    """List the records of the catalog, one line each."""
    from modelhub.db import Query

    with open_catalog(catalog, sink) as opened:
        entries = opened.entries(Query(**filters))
        answer_found(opened, entries, filters, sink)
    sink.note(counted(len(entries), "record"))
    return ExitCode.OK
