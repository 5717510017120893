"""``modelhub convert``: a checkpoint becomes safetensors."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.report.sink import Sink


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="[DST]", required=False)
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@click.option("--salvage", is_flag=True, help="Copy the tensors of a file that is not SAFE as well.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@reporting
def command(*, source: str, target: str | None, force: bool, salvage: bool, dry_run: bool, sink: Sink) -> int:
    """Copy the tensors of SRC into the safetensors file DST (default: beside SRC, under its name).

    Nothing of SRC is executed and SRC is never changed. The copy is verified: every tensor's bytes are compared with
    the source before DST appears.
    """
    from modelhub.convert import Conversion, convert, default_target

    with sink.progress() as bar:
        if bar is not None:
            bar.begin_file(source)
        done = convert(
            source,
            target,
            force=force,
            salvage=salvage,
            dry_run=dry_run,
            progress=bar.advance if bar else None,
        )
    written = default_target(source, target)
    if sink.machine:
        from modelhub.report.json import CONVERT_SCHEMA, conversion_dict, plan_dict

        sink.add(conversion_dict(done) if isinstance(done, Conversion) else plan_dict(done, written))
        sink.document(CONVERT_SCHEMA, "reports", complete=True)
    else:
        from modelhub.report.converted import conversion_lines, plan_lines

        if isinstance(done, Conversion):
            sink.lines(conversion_lines(done, sink.verbosity))
        else:
            sink.lines(plan_lines(done, written, sink.verbosity))
    return ExitCode.OK
