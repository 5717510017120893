"""``modelhub tag``: tags on records of the catalog."""

from __future__ import annotations

import click

from modelhub.commands import STDIN, ExitCode, listed_lines, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("tag")
@click.argument("selector")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take the tags away instead.")
@catalog_option
@reporting
def command(*, selector: str, tags: tuple[str, ...], remove: bool, catalog: str | None, sink: Sink) -> int:
    """Tag the record that SELECTOR fits (see 'modelhub show'), or take tags away.

    - takes SELECTORs from standard input, one per line: all of these records are tagged or, where one is not there,
    none. 'modelhub tags' lists the tags.
    """
    selectors = listed_lines(STDIN) if selector == STDIN else [selector]
    with open_catalog(catalog, sink) as opened:
        entries = opened.tag_all(selectors, tags, remove=remove)
    answer_entries(entries, sink)
    return ExitCode.OK
