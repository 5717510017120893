"""``modelhub db``: looking after the catalog itself."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog, open_settled_catalog
from modelhub.report.plain import counted, line
from modelhub.report.sink import Sink


@click.group("db")
def command() -> None:
    """Check the catalog, copy it, take it elsewhere, and mend it."""


@command.command("check")
@catalog_option
@reporting
def check(*, catalog: str | None, sink: Sink) -> int:
    """Say whether the catalog is sound: its pages, its references, its indexes. Ends with 1 when it is not."""
    with open_catalog(catalog, sink) as opened:
        faults = opened.upkeep.faults()
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
        opened.upkeep.back_up(target)
    sink.note(f"copied to {target}")
    return ExitCode.OK


@command.command("export")
@click.argument("target", metavar="FILE")
@catalog_option
@reporting
def export(*, target: str, catalog: str | None, sink: Sink) -> int:
    """Write everything that the catalog holds to FILE, a JSON object per line. A FILE that exists is not replaced."""
    from modelhub import __version__

    with open_catalog(catalog, sink) as opened:
        number = opened.upkeep.export(target, __version__)
    sink.note(f"{counted(number, 'row')} written to {target}")
    return ExitCode.OK


@command.command("import")
@click.argument("source", metavar="FILE")
@catalog_option
@reporting
def import_(*, source: str, catalog: str | None, sink: Sink) -> int:
    """Take in FILE, written by 'modelhub db export', all of it or nothing.

    The catalog is made if it is not there. What it knows already is not doubled, and keeps its own name and facts where
    both have some; notes are put together. The file is believed as the catalog itself is, its verdicts included.
    """
    from modelhub.config import load_settings

    with open_settled_catalog(load_settings(catalog=catalog), sink) as opened:
        number = opened.upkeep.take_in(source)
    sink.note(f"{counted(number, 'row')} taken in from {source}")
    return ExitCode.OK


@command.command("rebuild")
@click.argument("source", metavar="[FILE]", required=False)
@catalog_option
@reporting
def rebuild(*, source: str | None, catalog: str | None, sink: Sink) -> int:
    """Make anew what can be: what lists show and searches find, from what the catalog holds, and places from the disks.

    With FILE, an export, that is taken in first: into a new catalog it brings back everything that it held. What you
    wrote is kept.
    """
    from modelhub.config import load_settings
    from modelhub.report.synced import tally
    from modelhub.syncing import sync

    settings = load_settings(catalog=catalog)
    with open_settled_catalog(settings, sink) if source is not None else open_catalog(catalog, sink) as opened:
        if source is not None:
            opened.upkeep.take_in(source)
        number = opened.upkeep.rebuild()
        report = sync(opened)
    sink.note(f"{counted(number, 'content')} made anew; " + tally(report.counts, report.side_files))
    for unread in report.unread:
        sink.warn(f"{unread.path}: {unread.reason}")
    return ExitCode.INCOMPLETE if report.unread else ExitCode.OK
