"""``modelhub outdated``: which of what was fetched from the Hub has been changed there."""

from __future__ import annotations

from collections import Counter

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import counted
from modelhub.report.sink import Sink


@click.command("outdated")
@click.argument("selectors", metavar="RECORD...", nargs=-1)
@catalog_option
@reporting
def command(*, selectors: tuple[str, ...], catalog: str | None, sink: Sink) -> int:
    """Say which RECORDs, or of all that were fetched from the Hub, have other bytes there now; nothing is downloaded.

    A record is compared at the revision that was asked for; what was fetched at a commit can have nothing newer. Ends
    with 1 if something is outdated, with 2 if something could not be asked.
    """
    from modelhub.fetching import find_newer
    from modelhub.report.json import OUTDATED_SCHEMA
    from modelhub.report.newer import newer_dict, newer_lines

    states: Counter[str] = Counter()
    with open_catalog(catalog, sink) as opened:
        for newer in find_newer(opened, selectors):
            states[newer.state] += 1
            if sink.machine:
                sink.add(newer_dict(newer))
            else:
                sink.lines(newer_lines(newer, sink.verbosity))
    if sink.machine:
        sink.document(OUTDATED_SCHEMA, "records", complete=not states["failed"], counts=dict(states))
    said = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    sink.note(f"{counted(states.total(), 'record')} from the network" + (f": {said}" if said else ""))
    if states["outdated"]:
        return ExitCode.FOUND
    return ExitCode.INCOMPLETE if states["failed"] or (selectors and not states) else ExitCode.OK
