"""``modelhub rate``: what the user thinks of a model."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("rate")
@click.argument("selectors", metavar="RECORD...", nargs=-1, required=True)
@click.argument("rating", type=click.Choice(("0", "1", "2", "3", "4", "5", "none")))
@catalog_option
@reporting
def command(*, selectors: tuple[str, ...], rating: str, catalog: str | None, sink: Sink) -> int:
    """Rate each RECORD (see 'modelhub show') from 0 to 5, or none: no rating. Holds for all versions of the model.

    All of them are rated or, where one is not there, none.
    """
    with open_catalog(catalog, sink) as opened:
        entries = opened.rate_all(selectors, None if rating == "none" else int(rating))
    answer_entries(entries, sink)
    return ExitCode.OK
