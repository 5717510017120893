"""``modelhub duplicates``: files that are one too many."""

from __future__ import annotations

from dataclasses import asdict

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import Span, byte_size, counted, line
from modelhub.report.sink import Sink


@click.command("duplicates")
@catalog_option
@reporting
def command(*, catalog: str | None, sink: Sink) -> int:
    """List files with the same bytes, and files with the same tensors under other headers or in other containers.

    After 'modelhub hash --all --components' also components (a VAE, a text encoder) that several models have, and
    files that are others' rounded to fp16. Only what has been read can be compared. Links to one file are no
    duplicates. Nothing is deleted.
    """
    with open_catalog(catalog, sink) as opened:
        groups, unknown = opened.duplicates()
    if sink.machine:
        from modelhub.report.json import DUPLICATES_SCHEMA

        for group in groups:
            sink.add(asdict(group))
        sink.document(DUPLICATES_SCHEMA, "groups", not_hashed=unknown)
    else:
        for group in groups:
            what = group.kind if group.component is None else f"{group.kind} ({group.component})"
            sink.lines([line(Span(f"{what}  ", "bold"), f"{byte_size(group.extra_bytes)} too many")])
            sink.lines(line(f"    {path}") for path in group.paths)
    extra = sum(group.extra_bytes for group in groups if group.kind == "same bytes")
    sink.note(f"{counted(len(groups), 'group')}; copies of the same bytes take {byte_size(extra)}")
    if unknown:
        sink.note(f"{counted(unknown, 'file')} not hashed yet, and not compared: 'modelhub hash --all'")
    return ExitCode.OK
