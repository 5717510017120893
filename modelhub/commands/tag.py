"""``modelhub tag``: tags on a record of the catalog."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("tag")
@click.argument("selector")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take the tags away instead.")
@catalog_option
@reporting
def command(*, selector: str, tags: tuple[str, ...], remove: bool, catalog: str | None, sink: Sink) -> int:
    """Tag the record that SELECTOR fits (see 'modelhub show'), or take tags away."""
    with open_catalog(catalog, sink) as opened:
        entry = opened.untag(selector, tags) if remove else opened.tag(selector, tags)
    answer_entries([entry], sink)
    return ExitCode.OK
