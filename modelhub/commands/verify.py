"""``modelhub verify``: whether a converted file is still what was made of its source."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.report.plain import Span, line
from modelhub.report.sink import Sink


@click.command("verify")
@click.argument("target", metavar="OUT")
@click.option("--source", metavar="SRC", help="The file that OUT was made of: every tensor is compared with it.")
@click.option("--receipt", metavar="FILE", help="The receipt. [default: OUT.receipt.json, where it exists]")
@click.option("--fix-vae", metavar="FILE", help="The file whose VAE was put into OUT.")
@click.option("--tokenizer", metavar="DIR", help="The folder whose vocabulary OUT was given.")
@reporting
def command(
    *,
    target: str,
    source: str | None,
    receipt: str | None,
    fix_vae: str | None,
    tokenizer: str | None,
    sink: Sink,
) -> int:
    """Check OUT, a file or a folder that `modelhub convert` wrote, or that others converted from SRC.

    Without SRC, OUT is compared with its receipt. With SRC and the receipt, SRC must be the file that the receipt
    names, and is converted again in thought: every tensor and the header must be what comes of it. With SRC alone,
    every tensor is compared with SRC's. Ends with 0 when all is the same, with 1 when something differs.
    """
    from modelhub.convert.recheck import recheck

    with sink.progress() as bar:
        if bar is not None:
            bar.begin_file(target)
        checked = recheck(
            target,
            source,
            receipt=receipt,
            fix_vae=fix_vae,
            tokenizer=tokenizer,
            progress=bar.advance if bar else None,
        )
    if sink.machine:
        from modelhub.report.json import VERIFY_SCHEMA, recheck_dict

        sink.add(recheck_dict(checked))
        sink.document(VERIFY_SCHEMA, "reports", complete=True)
    else:
        against = " and ".join(name for name in (checked.receipt, checked.source) if name is not None)
        if checked.differences:
            sink.lines([line(Span("differs   ", "unsafe"), Span(target, "bold"), Span(f"  from {against}", "dim"))])
            sink.lines(line(f"    {sentence}") for sentence in checked.differences)
        else:
            sink.lines([line(Span("verified  ", "safe"), Span(target, "bold"), Span(f"  with {against}", "dim"))])
    return ExitCode.FOUND if checked.differences else ExitCode.OK
