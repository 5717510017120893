"""``modelhub show``: one record of the catalog with all that belongs to it."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("show")
@click.argument("selector")
@catalog_option
@reporting
def command(*, selector: str, catalog: str | None, sink: Sink) -> int:
    """Show what the catalog knows of one record: where it lies, verdict, findings, identity, lineage, metadata, and
    what others claim of it: side files, previews, trigger words.

    SELECTOR is its id, its exact name, a path or file name, or the beginning of one of its digests (six digits or
    more).
    """
    with open_catalog(catalog, sink) as opened:
        detail = opened.show(selector).as_dict()
    if sink.machine:
        from modelhub.report.json import RECORD_SCHEMA

        sink.add(detail)
        sink.document(RECORD_SCHEMA, "records")
    else:
        from modelhub.report.catalogued import detail_lines

        sink.lines(detail_lines(detail, sink.verbosity))
    return ExitCode.OK
