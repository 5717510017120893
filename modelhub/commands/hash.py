"""``modelhub hash``: the digests that people know model files by."""

from __future__ import annotations

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.plain import Span, counted, line
from modelhub.report.sink import Sink


@click.command("hash")
@click.argument("selectors", metavar="RECORD...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every record whose digests are not known yet.")
@click.option("--components", is_flag=True, help="Also what 'modelhub duplicates' tells components and fp16 twins by.")
@catalog_option
@reporting
def command(*, selectors: tuple[str, ...], everything: bool, components: bool, catalog: str | None, sink: Sink) -> int:
    """Compute SHA-256, AutoV1, AutoV3, CRC-32, BLAKE3 (if installed) and a digest of the tensors, in one reading.

    RECORD is what 'modelhub show' takes. What is known is not computed again, and a run that is interrupted goes on
    where it was. Files whose bytes were told by their header alone are read, and told apart where they differ. A disk
    that spins is read by one reader, others by several.
    """
    if bool(selectors) == everything:
        raise click.UsageError("Name records, or give --all.", ctx=click.get_current_context())
    from modelhub.hashing import hash_files, hash_images

    done = failed = 0
    with open_catalog(catalog, sink) as opened, sink.progress() as bar:

        def on_start(files: int, nbytes: int) -> None:
            if bar is not None:
                bar.begin(counted(files, "file"), nbytes)

        for hashed in hash_files(
            opened, selectors, components=components, progress=bar.advance if bar else None, on_start=on_start
        ):
            done += hashed.error is None
            failed += hashed.error is not None
            if sink.machine:
                error = str(hashed.error) if hashed.error is not None else None
                sink.add({"path": hashed.path, "digests": hashed.digests, "error": error})
            elif hashed.error is not None:
                sink.warn(str(hashed.error))
            else:
                sink.lines([line(Span(hashed.digests["sha256"][:10], "bold"), f"  {hashed.path}")])
        hash_images(opened, selectors)
    if sink.machine:
        from modelhub.report.json import HASH_SCHEMA

        sink.document(HASH_SCHEMA, "files", complete=not failed)
    sink.note(f"{counted(done, 'file')} read" + (f", {failed:,} failed" if failed else ""))
    return ExitCode.INCOMPLETE if failed else ExitCode.OK
