"""``modelhub enrich``: what a service says of the catalog's bytes."""

from __future__ import annotations

from collections import Counter

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import Span, counted, line
from modelhub.report.sink import Sink


@click.command("enrich")
@click.argument("selectors", metavar="RECORD...", nargs=-1)
@click.option("--previews", is_flag=True, help="Write the first picture beside a model that has none.")
@catalog_option
@reporting
def command(*, selectors: tuple[str, ...], previews: bool, catalog: str | None, sink: Sink) -> int:
    """Ask a service that speaks Civitai's API about RECORDs, or all that are hashed, by their SHA-256.

    Off unless you name it: enrich_endpoint in your settings, or MODELHUB_ENRICH_ENDPOINT. What it says (base model,
    trigger words, versions ...) is kept as a claim with its day; 'modelhub show' tells where the bytes contradict it.
    """
    from modelhub.config import load_settings
    from modelhub.enriching import enrich
    from modelhub.report.json import ENRICH_SCHEMA

    setting = load_settings(catalog=catalog).enrich_endpoint
    states: Counter[str] = Counter()
    with open_catalog(catalog, sink) as opened:
        for each in enrich(opened, setting.value if setting is not None else None, selectors, previews=previews):
            states[each.state] += 1
            error = None if each.error is None else str(each.error)
            if sink.machine:
                facts = each.claims.as_dict() if each.claims is not None else None
                row = {"record": each.entry.id, "name": each.entry.name, "state": each.state, "claims": facts}
                sink.add({**row, "preview": each.preview, "error": error})
            elif each.claims is not None:
                told = " ".join(filter(None, (each.claims.name, each.claims.version)))
                base = f"  {each.claims.base_model}" if each.claims.base_model else ""
                sink.lines([line(Span("told  ", "dim"), Span(each.entry.name, "bold"), f"  {told}{base}")])
            elif error is not None:
                sink.warn(error)
    if sink.machine:
        sink.document(ENRICH_SCHEMA, "records", complete=not states["failed"], counts=dict(states))
    said = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    sink.note(counted(states.total(), "record") + (f": {said}" if said else ""))
    return ExitCode.INCOMPLETE if states["failed"] else ExitCode.OK
