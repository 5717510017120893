"""``modelhub export``: what the catalog knows, as side files that other programs read."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import Span, counted, line
from modelhub.report.sink import Sink

_DONE = {"write": "written", "replace": "replaced", "unchanged": "unchanged"}


@click.command("export")
@click.argument("selectors", metavar="RECORD...", nargs=-1, required=True)
@click.option(
    "--dialect",
    required=True,
    type=click.Choice(("civitai", "a1111", "lora-manager")),
    help="Whose side file: NAME.civitai.info, NAME.json or NAME.metadata.json.",
)
@click.option("--to", metavar="DIR", help="Write into this folder and not beside the models.")
@click.option("--overwrite", is_flag=True, help="Replace other programs' files, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@catalog_option
@reporting
def command(
    *,
    selectors: tuple[str, ...],
    dialect: str,
    to: str | None,
    overwrite: bool,
    dry_run: bool,
    catalog: str | None,
    sink: Sink,
) -> int:
    """Write what is known of each RECORD (see 'modelhub show') as a side file that another program reads.

    A file that is there is replaced only if an export wrote it and nobody has changed it since.
    """
    from modelhub.exporting import export_all, plan_exports

    with open_catalog(catalog, sink) as opened:
        exports = plan_exports(opened, selectors, dialect, to, overwrite=overwrite)
    failed = 0
    for export, error in export_all(exports, dry_run=dry_run):
        done = f"would {export.action}" if dry_run and export.action != "unchanged" else _DONE.get(export.action)
        action = done if error is None else "refused"
        failed += error is not None
        if sink.machine:
            said = str(error) if error is not None else None
            sink.add(
                {"record": export.record, "name": export.name, "path": export.path, "action": action, "error": said}
            )
        elif error is not None:
            sink.warn(f"{error}" + (f" ({error.hint})" if error.hint else ""))
        else:
            sink.lines([line(Span(f"{action}  ", "dim"), export.path)])
    if sink.machine:
        from modelhub.report.json import EXPORT_SCHEMA

        sink.document(EXPORT_SCHEMA, "files", complete=not failed)
    sink.note(counted(len(exports) - failed, "side file") + (f", {failed:,} refused" if failed else ""))
    return ExitCode.INCOMPLETE if failed else ExitCode.OK
