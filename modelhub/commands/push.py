"""``modelhub push``: a safe file of the catalog's to the Hub."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, on_terminal, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import Span, byte_size, line
from modelhub.report.sink import Sink


@click.command("push")
@click.argument("selector", metavar="RECORD")
@click.argument("address", metavar="ADDRESS")
@click.option("--private", is_flag=True, help="Make the repository a private one, if it is to be made.")
@click.option("--revision", metavar="NAME", help="The branch to push to. [default: main]")
@click.option("--pr", "as_request", is_flag=True, help="Open a pull request.")
@click.option("--replace", is_flag=True, help="Put it in the place of other bytes that are there.")
@click.option("--dry-run", is_flag=True, help="Say what would be pushed, and push nothing.")
@catalog_option
@reporting
def command(
    *,
    selector: str,
    address: str,
    private: bool,
    revision: str | None,
    as_request: bool,
    replace: bool,
    dry_run: bool,
    catalog: str | None,
    sink: Sink,
) -> int:
    """Push the safetensors file of RECORD to ADDRESS, hf://OWNER/REPOSITORY[/PATH], with its receipt and a model card.

    It is scanned again, and pushed only if it is SAFE. The repository is made if it is not there; a model card that is
    there stays as it is. All of it is one commit. Needs a token that may write (HF_TOKEN, or 'hf auth login').
    """
    from modelhub.pushing import Pushed, plan_push, push
    from modelhub.report.json import PUSH_SCHEMA

    with open_catalog(catalog, sink) as opened:
        plan = plan_push(opened, selector, address, revision=revision, replace=replace)
    if not sink.machine:
        new = " (to be made)" if plan.creates else ""
        sink.lines([line(Span(plan.address, "bold"), Span(f"{new}  {byte_size(plan.size)}", "dim"))])
        sink.lines(line(Span(f"  {file.action}  ", "dim"), file.path) for file in plan.files)
    quiet = sink.verbosity < 0 or not on_terminal()
    done = Pushed(None) if dry_run else push(plan, private=private, as_request=as_request, quiet=quiet)
    if sink.machine:
        files = [{"path": file.path, "size": file.size, "action": file.action} for file in plan.files]
        row = {"record": plan.record, "address": plan.address, "creates": plan.creates, "files": files}
        sink.add({**row, "commit": done.commit, "request": done.request})
        sink.document(PUSH_SCHEMA, "pushes", dry_run=dry_run)
    elif not dry_run:
        said = f"commit {done.commit}" if done.commit else "it is there already"
        sink.note(f"{said}, {done.request}" if done.request else said)
    return ExitCode.OK
