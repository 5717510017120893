"""``modelhub library``: the folders that the catalog follows."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import catalog_option, open_catalog, open_settled_catalog
from modelhub.report.plain import counted, line
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.syncing import SyncReport

_DIALECTS = ("auto", "plain", "a1111", "comfyui", "invokeai", "hf-cache")
_SHOWN = 20


@click.group("library")
def command() -> None:
    """Follow folders of models: the catalog knows their files again through moves, renames and unplugged drives."""


@command.command("add")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option(
    "--dialect",
    type=click.Choice(_DIALECTS),
    default="auto",
    show_default=True,
    help="Whose folders these are: which of them are looked into.",
)
@click.option("--links", type=click.Choice(("follow", "skip")), default="follow", show_default=True, help="Symlinks.")
@catalog_option
@reporting
def add(*, folder: str | None, dialect: str, links: str, catalog: str | None, sink: Sink) -> int:
    """Follow DIR from now on. Nothing of it is read before 'modelhub library sync'.

    With --dialect hf-cache and no DIR, the folder that huggingface_hub keeps its cache in.
    """
    from modelhub.config import load_settings
    from modelhub.syncing import add_library

    if folder is None:
        if dialect != "hf-cache":
            raise click.UsageError("Missing argument 'DIR'.", ctx=click.get_current_context())
        from modelhub.source.hub_cache import default_cache

        folder = default_cache()
    with open_settled_catalog(load_settings(catalog=catalog), sink) as opened:
        root = add_library(opened, folder, dialect=dialect, follow_links=links == "follow")
    if sink.machine:
        from modelhub.report.json import LIBRARY_SCHEMA
        from modelhub.report.synced import root_dict

        sink.add(root_dict(root))
        sink.document(LIBRARY_SCHEMA, "libraries")
    else:
        sink.lines([line(f"{root.path}  ({root.dialect}): 'modelhub library sync' reads it")])
    return ExitCode.OK


@command.command("remove")
@click.argument("folder", metavar="DIR")
@catalog_option
@reporting
def remove(*, folder: str, catalog: str | None, sink: Sink) -> int:
    """Follow DIR no longer. No file is touched, and its records keep what was written on them."""
    with open_catalog(catalog, sink) as opened:
        root = opened.libraries.remove(os.path.abspath(folder))
    sink.note(f"{root.path} is no longer followed")
    return ExitCode.OK


@command.command("list")
@catalog_option
@reporting
def list_(*, catalog: str | None, sink: Sink) -> int:
    """List the folders that the catalog follows, and how many files of each are there, missing or offline."""
    from modelhub.report.json import LIBRARY_SCHEMA
    from modelhub.report.synced import root_dict, root_table

    with open_catalog(catalog, sink) as opened:
        roots = opened.libraries.all()
    if sink.machine:
        for root in roots:
            sink.add(root_dict(root))
        sink.document(LIBRARY_SCHEMA, "libraries")
    elif roots:
        sink.table(root_table(roots))
    else:
        sink.note("no folder is followed yet: 'modelhub library add DIR'")
    return ExitCode.OK


@command.command("sync")
@click.option("--library", "libraries", metavar="DIR", multiple=True, help="Only this one; may be repeated.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes that read headers. [default: one per processor]")
@click.option("--watch", is_flag=True, help="Go on: sync again whenever something has changed, until Ctrl-C.")
@click.option(
    "--every",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="How often --watch looks.",
)
@catalog_option
@reporting
def sync(
    *, libraries: tuple[str, ...], jobs: int | None, watch: bool, every: float, catalog: str | None, sink: Sink
) -> int:
    """Make the catalog true to the folders it follows. Only what has changed is read, and of that only headers.

    Whenever it is interrupted, the next sync goes on. No file is changed.
    """
    from modelhub.syncing import sync as sync_libraries
    from modelhub.syncing import watch as watch_libraries

    with open_catalog(catalog, sink) as opened:
        if not watch:
            return _answer_sync(sync_libraries(opened, libraries, processes=jobs), libraries, sink)
        if sink.format == "json":
            raise click.UsageError("--watch has no end to write one document at: use --format jsonl.")
        sink.note("watching: Ctrl-C ends it")
        for report in watch_libraries(opened, libraries, processes=jobs, every=every):
            _answer_sync(report, libraries, sink)
            sys.stdout.flush()
    return ExitCode.OK


def _answer_sync(report: SyncReport, libraries: Sequence[str], sink: Sink) -> int:
    from modelhub.report.synced import change_dict, sync_lines, tally

    if sink.machine:
        from modelhub.report.json import SYNC_SCHEMA

        for change in report.changes:
            sink.add(change_dict(change))
        sink.document(
            SYNC_SCHEMA,
            "changes",
            complete=not report.unread and not report.offline,
            libraries=report.libraries,
            counts=report.counts,
            side_files=report.side_files,
            offline=report.offline,
            elsewhere=report.elsewhere,
            unclear=[{"path": path, "candidates": list(candidates)} for path, candidates in report.unclear],
            unread=[unread._asdict() for unread in report.unread],
        )
    else:
        sink.lines(sync_lines(report, None if sink.verbosity > 0 else _SHOWN))
    if report.unclear:
        sink.note(
            "if you know: 'modelhub list --gone' has lost records, 'modelhub group ID PATH' gives a file their notes"
        )
    if not report.libraries:
        sink.note("no folder is followed yet: 'modelhub library add DIR'")
    for path in report.offline:
        if path in report.elsewhere:
            hint = f"'modelhub library remove {path}' follows it no longer"
            sink.warn(f"{path}: the folder is not there, and all of its files were found elsewhere ({hint})")
        else:
            sink.warn(f"{path}: the folder is not there, or an empty one stands in its place: its files are offline")
    for unread in report.unread:
        sink.warn(f"{unread.path}: {unread.reason}")
    sink.note(tally(report.counts, report.side_files))
    return ExitCode.INCOMPLETE if report.unread or (libraries and report.offline) else ExitCode.OK


@command.command("organise")
@click.argument("folder", metavar="DIR")
@click.option(
    "--by", "template", metavar="TEMPLATE", help="Where a model belongs. [default: {kind}/{architecture}/{name}]"
)
@click.option("--dialect", type=click.Choice(("a1111", "comfyui")), help="Use the folders of this program.")
@click.option("--unidentified", is_flag=True, help="Move broken files and those of no known kind, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be moved, and move nothing.")
@catalog_option
@reporting
def organise(
    *,
    folder: str,
    template: str | None,
    dialect: str | None,
    unidentified: bool,
    dry_run: bool,
    catalog: str | None,
    sink: Sink,
) -> int:
    """Move the files of the followed folder DIR to where what they are says they belong; the catalog follows.

    TEMPLATE has {kind}, {architecture}, {variant}, {prediction_type}, {precision}, {container}, {digest}, {name} (of
    the file), {title} (of the record), {parent} (the folder it is in). Files that stand beside a model go with it.
    Nothing is overwritten or deleted, and what an interrupted run had begun the next one completes.
    """
    from modelhub.organising import Done, Template, plan_organising, recover
    from modelhub.organising import organise as carry_out
    from modelhub.report.json import ORGANISE_SCHEMA
    from modelhub.report.organised import move_dicts, organised_line, stay_dict

    wanted = Template(template) if template is not None else None
    failed = moved = 0
    with open_catalog(catalog, sink) as opened:
        (root,) = opened.libraries.chosen([os.path.abspath(folder)])
        if not dry_run and (completed := recover(opened, root)):
            sink.note(f"an interrupted run was completed: {counted(len(completed), 'file')} moved")
        plan = plan_organising(
            root, opened.libraries.holdings(root), template=wanted, dialect=dialect, unidentified=unidentified
        )
        answers = [stay_dict(stays) for stays in plan.stays]
        done = carry_out(opened, plan) if not dry_run else (Done(moves) for moves in plan.moves)
        for each in done:
            if isinstance(each, Done):
                answers += move_dicts(each.moves, "would move" if dry_run else "moved")
                moved += 1
            else:
                answers += move_dicts(each.moves, "failed", str(each.error))
                failed += 1
                sink.warn(str(each.error))
    for answer in answers:
        if sink.machine:
            sink.add(answer)
        elif answer["action"] != "in place" or sink.verbosity > 0:
            sink.lines([organised_line(answer)])
    sink.document(ORGANISE_SCHEMA, "files", complete=not failed)
    tally = Counter(answer["action"] for answer in answers)
    sink.note(", ".join(f"{number:,} {action}" for action, number in tally.items()) or "nothing to organise")
    return ExitCode.INCOMPLETE if failed else ExitCode.OK


@command.command("status")
@click.option("--changes", "limit", type=click.IntRange(min=0), default=10, show_default=True, help="How many to tell.")
@catalog_option
@reporting
def status(*, limit: int, catalog: str | None, sink: Sink) -> int:
    """Say how each followed folder stands, and what the last syncs found."""
    from modelhub.report.json import LIBRARY_SCHEMA
    from modelhub.report.synced import change_dict, change_line, root_dict, root_table

    with open_catalog(catalog, sink) as opened:
        roots = opened.libraries.all()
        changes = opened.libraries.changes(limit)
    if sink.machine:
        for root in roots:
            sink.add(root_dict(root))
        told = [{"at": at, **change_dict(change)} for at, change in changes]
        sink.document(LIBRARY_SCHEMA, "libraries", changes=told)
    else:
        if roots:
            sink.table(root_table(roots))
        sink.lines(change_line(change, at) for at, change in changes)
    sink.note(counted(len(roots), "library", "libraries"))
    return ExitCode.OK
