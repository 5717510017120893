"""``modelhub restore``: a hypernetwork in safetensors becomes the ``.pt`` that its programs load."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.report.sink import Sink


@click.command("restore")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="[DST]", required=False)
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@reporting
def command(*, source: str, target: str | None, force: bool, sink: Sink) -> int:
    """Make the hypernetwork in the safetensors file SRC the file DST again (default: beside SRC, ending in .pt).

    Other models are loaded from safetensors everywhere; hypernetworks nowhere yet. SRC is never changed, and DST
    appears when converting it again has been found to give the same tensors and settings.
    """
    from modelhub.hypernetworks import restore_hypernetwork

    done = restore_hypernetwork(source, target, force=force)
    if sink.machine:
        from modelhub.report.json import CONVERT_SCHEMA, conversion_dict

        sink.add(conversion_dict(done))
        sink.document(CONVERT_SCHEMA, "reports", complete=True)
    else:
        from modelhub.report.converted import conversion_lines

        sink.lines(conversion_lines(done, sink.verbosity))
    return ExitCode.OK
