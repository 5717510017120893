"""``modelhub fetch``: from the network into a folder, judged first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import click

from modelhub.commands import Outcome, judging, on_terminal, reporting
from modelhub.commands.filters import catalog_option
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.fetching import FetchPlan, Unit


@click.command("fetch")
@click.argument("address", metavar="ADDRESS")
@click.option("--to", "folder", metavar="DIR", default=".", help="Put it below DIR. [default: the working directory]")
@click.option("--include", metavar="GLOB", multiple=True, help="Only paths that GLOB fits; may be repeated.")
@click.option("--variant", metavar="NAME", help="The precision to take where there are several, such as fp16.")
@click.option("--sha256", metavar="HEX", help="What the file at an address outside the Hub must have.")
@click.option("--salvage", is_flag=True, help="Of files that are not SAFE, take the tensors alone.")
@catalog_option
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded; download nothing.")
@judging
@reporting
def command(
    *,
    address: str,
    folder: str,
    include: tuple[str, ...],
    variant: str | None,
    sha256: str | None,
    salvage: bool,
    catalog: str | None,
    dry_run: bool,
    outcome: Outcome,
    sink: Sink,
) -> int:
    """Download what is safe of ADDRESS: hf://OWNER/REPOSITORY[@REVISION][/PATH], https://..., s3://... or gs://...

    It is judged over the network first.
    A safetensors file is preferred to a pickle of the same weights, one precision is taken, and of a pipeline what its
    index lists. What is not safe is not downloaded. The rest goes to a quarantine folder, is compared with the SHA-256
    that is claimed, scanned here, put below DIR if it is SAFE, and taken in as by `modelhub intake`.
    """
    from modelhub.fetching import plan_fetch
    from modelhub.report.fetched import plan_lines, unit_dict, unit_lines
    from modelhub.report.json import FETCH_SCHEMA
    from modelhub.scan import Verdict
    from modelhub.source import is_remote

    if not is_remote(address):
        raise click.UsageError(f"{address}: not an address; hf://, https://, s3:// or gs:// is needed")
    plan = plan_fetch(address, folder, include=include, variant=variant, sha256=sha256)
    if not sink.machine:
        sink.lines(plan_lines(plan, sink.verbosity))
    for row in _planned(plan, salvage) if dry_run else _fetched(plan, salvage, catalog, sink):
        is_salvaged = row.action in ("salvaged", "would salvage")
        complete = is_salvaged or all(report.coverage.complete for report in row.unit.reports)
        verdict = Verdict.SAFE if is_salvaged else row.unit.verdict
        outcome.add(verdict, complete=complete and row.error is None)
        if sink.machine:
            sink.add({**unit_dict(row.unit, row.action, row.target, row.error), "records": list(row.records)})
        else:
            sink.lines(unit_lines(row.unit, row.action, row.target, row.error))
    if sink.machine:
        sink.document(FETCH_SCHEMA, "units", complete=outcome.complete, dry_run=dry_run, size=plan.size)
    return outcome.exit_code


class _Row(NamedTuple):
    """One unit of the answer; ``records`` are the ids in the catalog of what was made of it."""

    unit: Unit
    action: str
    target: str | None
    error: str | None = None
    records: tuple[int, ...] = ()


def _planned(plan: FetchPlan, salvage: bool) -> Iterator[_Row]:
    for unit in plan.units:
        otherwise = "would salvage" if salvage and not unit.is_folder else "would be refused"
        yield _Row(unit, "would fetch" if unit.may_be_fetched else otherwise, unit.target)


def _fetched(plan: FetchPlan, salvage: bool, catalog: str | None, sink: Sink) -> Iterator[_Row]:
    """Fetch each unit, and take it in."""
    from modelhub.commands.filters import open_settled_catalog
    from modelhub.config import load_settings
    from modelhub.fetching import fetch
    from modelhub.library import IntakeOptions, intake

    settings = load_settings(catalog=catalog)
    options = IntakeOptions(library=settings.library.value if settings.library is not None else None)
    with open_settled_catalog(settings, sink) as opened:
        quiet = sink.verbosity < 0 or not on_terminal()
        for done in fetch(plan, opened, salvage=salvage, quiet=quiet, on_note=sink.note):
            unit = replace(done.unit, reports=done.reports)
            if done.error is not None:
                known = (done.entry.id,) if done.entry is not None else ()
                yield _Row(unit, done.action, done.target, str(done.error), known)
                continue
            taken = list(intake([done.target], opened, options)) if done.target is not None else []
            error = next((str(each.error) for each in taken if each.error is not None), None)
            records = tuple(each.entry.id for each in taken if each.entry is not None)
            yield _Row(unit, done.action, done.target, error, records)
