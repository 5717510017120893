"""``modelhub reidentify``: new rules for known files."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import counted
from modelhub.report.sink import Sink


@click.command("reidentify")
@catalog_option
@reporting
def command(*, catalog: str | None, sink: Sink) -> int:
    """Identify known files again where the rules have changed, from what the catalog keeps of them: no file is opened.

    What 'modelhub set' has set stays as it is.
    """
    from modelhub.reidentifying import reidentify

    with open_catalog(catalog, sink) as opened:
        done = reidentify(opened)
    if sink.machine:
        from modelhub.report.json import REIDENTIFY_SCHEMA

        sink.add(done._asdict())
        sink.document(REIDENTIFY_SCHEMA, "runs")
    sink.note(f"{counted(done.files, 'file')} identified again, {done.changed:,} told differently")
    if done.unreadable:
        sink.note(f"{counted(done.unreadable, 'file')} left as told: what the catalog has kept of them cannot be read")
    return ExitCode.OK
