"""``modelhub update``: what has been changed on the Hub, in place of what was fetched before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import click

from modelhub.commands import Outcome, judging, on_terminal, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.db import Catalog
    from modelhub.fetching import FetchResult, Newer


@click.command("update")
@click.argument("selectors", metavar="RECORD...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Say what would be downloaded; download nothing.")
@catalog_option
@judging
@reporting
def command(*, selectors: tuple[str, ...], dry_run: bool, catalog: str | None, outcome: Outcome, sink: Sink) -> int:
    """Fetch what the Hub has now of each RECORD that is outdated (see 'modelhub outdated'), in its place.

    It goes through the same gate as a fetch. The old file stays until the new one is let in, and is replaced then; one
    that was changed since it was recorded is not. Tags, notes, rating and collections hold for both.
    """
    from modelhub.fetching import find_newer
    from modelhub.report.fetched import unit_dict, unit_lines
    from modelhub.report.json import UPDATE_SCHEMA
    from modelhub.report.newer import newer_dict, newer_lines
    from modelhub.scan import Verdict

    with open_catalog(catalog, sink) as opened:
        for newer in list(find_newer(opened, selectors)):
            failed = newer.state in ("failed", "gone")
            if newer.state != "outdated" or dry_run:
                outcome.add(None if failed else Verdict.SAFE, complete=not failed)
                if sink.machine:
                    sink.add({**newer_dict(newer), "action": None, "unit": None, "records": []})
                else:
                    sink.lines(newer_lines(newer, max(1, sink.verbosity)))
                continue
            became = _updated(opened, newer, sink)
            done, error = became.done, became.error
            outcome.add(None if done is None else done.verdict, complete=error is None)
            action = "failed" if done is None else done.action
            unit = None if done is None else replace(done.unit, reports=done.reports)
            if sink.machine:
                said = None if unit is None or done is None else unit_dict(unit, action, done.target, error)
                row = {"action": action, "unit": said, "records": list(became.records), "error": error}
                sink.add({**newer_dict(newer), **row})
            elif unit is not None and done is not None:
                sink.lines(unit_lines(unit, action, done.target, error))
            else:
                sink.warn(str(error))
    if sink.machine:
        sink.document(UPDATE_SCHEMA, "records", complete=outcome.complete, dry_run=dry_run)
    return outcome.exit_code


class _Became(NamedTuple):
    """What came of one record: the fetch, the records of what was made of it, and what went wrong."""

    done: FetchResult | None
    records: tuple[int, ...] = ()
    error: str | None = None


def _updated(catalog: Catalog, newer: Newer, sink: Sink) -> _Became:
    from modelhub.errors import ModelHubError
    from modelhub.fetching import update
    from modelhub.library import intake

    try:
        done = update(catalog, newer, quiet=sink.verbosity < 0 or not on_terminal())
    except ModelHubError as error:
        return _Became(None, error=f"{error}" + (f" ({error.hint})" if error.hint else ""))
    if done.error is not None or done.target is None:
        return _Became(done, error=str(done.error) if done.error is not None else None)
    taken = list(intake([done.target], catalog))
    failed = next((str(each.error) for each in taken if each.error is not None), None)
    return _Became(done, tuple(each.entry.id for each in taken if each.entry is not None), failed)
