"""``modelhub intake``: downloads become judged, catalogued safetensors files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modelhub.commands import Outcome, judging, paths_argument, reporting
from modelhub.commands.filters import catalog_option, open_settled_catalog
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.db import Catalog
    from modelhub.library import IntakeOptions, IntakeResult


@click.command("intake")
@paths_argument
@click.option(
    "--library",
    metavar="DIR",
    help="Put models into DIR as KIND/ARCHITECTURE/NAME.safetensors, or as a folder NAME. "
    "[default: converted files beside the originals]",
)
@catalog_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; write neither files nor catalog.")
@click.option("--no-convert", is_flag=True, help="Judge, identify and record only.")
@click.option("--salvage", is_flag=True, help="Copy the tensors of files that are not SAFE, too; recorded as such.")
@judging
@reporting
def command(
    *,
    paths: Sequence[str],
    library: str | None,
    catalog: str | None,
    dry_run: bool,
    no_convert: bool,
    salvage: bool,
    outcome: Outcome,
    sink: Sink,
) -> int:
    """Take in each PATH: digest, scan, identify, convert what is a SAFE pickle, and record it all in the catalog.

    Files are never changed, moved or deleted, and nothing of them is executed. A second run does no work twice.
    A diffusers folder, shards with their index, or PEFT's adapter is one model, and stays one folder.
    """
    from modelhub.config import load_settings
    from modelhub.library import IntakeOptions

    settings = load_settings(catalog=catalog, library=library)
    options = IntakeOptions(
        library=settings.library.value if settings.library is not None else None,
        convert=not no_convert,
        salvage=salvage,
        dry_run=dry_run,
    )
    with open_settled_catalog(settings, sink, make=not dry_run) as opened:
        results = take_in(paths, opened, options, sink)
    for result in results:
        _judge(result, outcome)
    if sink.machine:
        from modelhub.report.json import INTAKE_SCHEMA

        sink.document(INTAKE_SCHEMA, "reports", complete=outcome.complete, dry_run=dry_run)
    if not results:
        sink.note("nothing to take in: no model file was found there")
    return outcome.exit_code


def take_in(paths: Sequence[str], catalog: Catalog, options: IntakeOptions, sink: Sink) -> list[IntakeResult]:
    """Run intake over *paths*, telling *sink* of each file as it is done, for people with a table in the end."""
    from modelhub.library import intake
    from modelhub.report.scanned import tally
    from modelhub.report.taken_in import summary_table, taken_dict, taken_lines, verdict_of

    results = []
    with sink.progress() as bar:

        def on_file(path: str, size: int) -> None:
            if bar is not None:
                bar.begin(os.path.basename(path), size)

        for result in intake(paths, catalog, options, progress=bar.advance if bar else None, on_file=on_file):
            results.append(result)
            if sink.machine:
                sink.add(taken_dict(result))
            else:
                sink.lines(taken_lines(result))
    if results and not sink.machine:
        sink.lines([()])
        sink.table(summary_table(results))
    if results:
        sink.note(tally(map(verdict_of, results)))
    return results


def _judge(result: IntakeResult, outcome: Outcome) -> None:
    from modelhub.report.taken_in import verdict_of
    from modelhub.scan import Verdict

    examined = result.report.coverage.complete if result.report is not None else result.entry is not None
    outcome.add(Verdict[verdict_of(result).upper()], complete=examined and result.error is None)
