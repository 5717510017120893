"""``modelhub db``: looking after the catalog itself."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import line
from modelhub.report.sink import Sink


@click.group("db")
def command() -> None:
    """Check the catalog, and copy it while it is in use."""


@command.command("check")
@catalog_option
@reporting
def check(*, catalog: str | None, sink: Sink) -> int:
    """Say whether the catalog is sound: its pages, its references, its indexes. Ends with 1 when it is not."""
    with open_catalog(catalog, sink) as opened:
        faults = opened.faults()
    if sink.machine:
        from modelhub.report.json import CHECK_SCHEMA

        for fault in faults:
            sink.add({"fault": fault})
        sink.document(CHECK_SCHEMA, "faults", sound=not faults)
    else:
        sink.lines(line(fault) for fault in faults)
    sink.note("the catalog is sound" if not faults else "the catalog is damaged: put back a copy of it")
    return ExitCode.FOUND if faults else ExitCode.OK


@command.command("backup")
@click.argument("target", metavar="FILE")
@catalog_option
@reporting
def backup(*, target: str, catalog: str | None, sink: Sink) -> int:
    """Copy the catalog to FILE, whole, while others may use it. A FILE that exists is not replaced."""
    with open_catalog(catalog, sink) as opened:
        opened.back_up(target)
    sink.note(f"copied to {target}")
    return ExitCode.OK
