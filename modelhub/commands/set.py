"""``modelhub set``: facts that the user knows better than the files."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.sink import Sink


@click.command("set")
@click.argument("selector", metavar="RECORD")
@click.argument("facts", metavar="NAME=VALUE...", nargs=-1, required=True)
@catalog_option
@reporting
def command(*, selector: str, facts: tuple[str, ...], catalog: str | None, sink: Sink) -> int:
    """Set facts of RECORD (see 'modelhub show'), whatever its files say, now and when they are identified again.

    NAME is kind, architecture, variant, prediction_type, precision, name, rating (0 to 5) or notes. NAME= says that
    there is none; 'modelhub unset' lets the files speak again.
    """
    pairs = {}
    for fact in facts:
        name, equals, value = fact.partition("=")
        if not equals:
            raise click.UsageError(f"{fact}: write it as NAME=VALUE.", ctx=click.get_current_context())
        pairs[name.strip().replace("-", "_")] = value.strip() or None
    notes = pairs.pop("notes", "")
    with open_catalog(catalog, sink) as opened:
        entry = opened.set(selector, pairs)
        if notes != "":
            entry = opened.note(f"#{entry.id}", notes or "")
    answer_entries([entry], sink)
    return ExitCode.OK
