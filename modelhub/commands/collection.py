"""``modelhub collection``: named sets of models."""

from __future__ import annotations

from dataclasses import asdict

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.filters import answer_entries, catalog_option, open_catalog
from modelhub.report.plain import counted, line
from modelhub.report.sink import Sink


@click.group("collection")
def command() -> None:
    """Keep records in collections: 'modelhub list --collection NAME' lists one. All versions of a model are in it."""


@command.command("create")
@click.argument("name")
@catalog_option
@reporting
def create(*, name: str, catalog: str | None, sink: Sink) -> int:
    """Make the collection NAME."""
    with open_catalog(catalog, sink) as opened:
        made = opened.collections.create(name)
    sink.note(f"collection {made.name} made")
    return ExitCode.OK


@command.command("add")
@click.argument("name")
@click.argument("selectors", metavar="RECORD...", nargs=-1, required=True)
@catalog_option
@reporting
def add(*, name: str, selectors: tuple[str, ...], catalog: str | None, sink: Sink) -> int:
    """Put each RECORD (see 'modelhub show') into the collection NAME: all of them, or none where one cannot be told."""
    with open_catalog(catalog, sink) as opened:
        number = opened.collections.add(name, selectors)
    sink.note(f"{counted(number, 'model')} added")
    return ExitCode.OK


@command.command("remove")
@click.argument("name")
@click.argument("selectors", metavar="RECORD...", nargs=-1, required=True)
@catalog_option
@reporting
def remove(*, name: str, selectors: tuple[str, ...], catalog: str | None, sink: Sink) -> int:
    """Take each RECORD out of the collection NAME."""
    with open_catalog(catalog, sink) as opened:
        number = opened.collections.remove(name, selectors)
    sink.note(f"{counted(number, 'model')} taken out")
    return ExitCode.OK


@command.command("list")
@catalog_option
@reporting
def list_(*, catalog: str | None, sink: Sink) -> int:
    """List the collections, and how many models are in each."""
    from modelhub.report.json import COLLECTION_SCHEMA

    with open_catalog(catalog, sink) as opened:
        collections = opened.collections.all()
    if sink.machine:
        for each in collections:
            sink.add(asdict(each))
        sink.document(COLLECTION_SCHEMA, "collections")
    else:
        sink.lines(line(f"{each.name}  ({counted(each.size, 'model')})") for each in collections)
    sink.note(counted(len(collections), "collection"))
    return ExitCode.OK


@command.command("show")
@click.argument("name")
@catalog_option
@reporting
def show(*, name: str, catalog: str | None, sink: Sink) -> int:
    """List the records in the collection NAME, those without a file included."""
    from modelhub.db import Query

    with open_catalog(catalog, sink) as opened:
        entries = opened.entries(Query(collection=name, gone=True))
    answer_entries(entries, sink)
    sink.note(counted(len(entries), "record"))
    return ExitCode.OK


@command.command("delete")
@click.argument("name")
@catalog_option
@reporting
def delete(*, name: str, catalog: str | None, sink: Sink) -> int:
    """Delete the collection NAME. Its records and their files stay."""
    with open_catalog(catalog, sink) as opened:
        gone = opened.collections.delete(name)
    sink.note(f"collection {gone.name} deleted; {counted(gone.size, 'model')} stay")
    return ExitCode.OK
