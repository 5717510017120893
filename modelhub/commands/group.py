"""``modelhub group``: which records are one model."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("group")
@click.argument("selectors", metavar="RECORD...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Let each RECORD be a model of its own again.")
@catalog_option
@reporting
def command(*, selectors: tuple[str, ...], remove: bool, catalog: str | None, sink: Sink) -> int:
    """Let two RECORDs (see 'modelhub show') or more be one model: they share tags, notes, rating and collections.

    What is written on any of them is kept, and holds for all. A file that takes the place of another, and one that was
    converted from another, belong together from the beginning.
    """
    if not remove and len(selectors) < 2:
        raise click.UsageError("Name two records or more.", ctx=click.get_current_context())
    with open_catalog(catalog, sink) as opened:
        entries = opened.artifacts.part(selectors) if remove else opened.artifacts.group(selectors)
    answer_entries(entries, sink)
    return ExitCode.OK
