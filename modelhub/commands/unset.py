"""``modelhub unset``: facts that are left to the files again."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("unset")
@click.argument("selector", metavar="RECORD")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@catalog_option
@reporting
def command(*, selector: str, names: tuple[str, ...], catalog: str | None, sink: Sink) -> int:
    """Let the facts NAME of RECORD, which 'modelhub set' has set, be what its files say again.

    NAME may also be name (that of the file again), rating or notes, which are then taken away.
    """
    with open_catalog(catalog, sink) as opened:
        entry = opened.unset(selector, [name.replace("-", "_") for name in names])
    answer_entries([entry], sink)
    return ExitCode.OK
