"""What the commands over the catalog share: which catalog, and which of its records."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from modelhub.errors import CatalogError

if TYPE_CHECKING:
    from modelhub.config import Settings
    from modelhub.db import Catalog, Entry
    from modelhub.report.sink import Sink

VERDICTS = ("safe", "unknown", "suspicious", "unsafe")
_VALUED = ("kind", "architecture", "variant", "prediction_type", "precision", "container")
_NARROWING = (*_VALUED, "verdict", "tag", "collection", "digest")
SORTS = ("name", "added", "size", "kind", "architecture", "precision", "verdict", "rating", "path")

catalog_option = click.option(
    "--catalog",
    metavar="URL",
    help="The catalog: an SQLite file or a database's URL. [default: one in the user's data folder]",
)


def filtered(command: Callable[..., int]) -> Callable[..., int]:
    """Give *command* the options that narrow a listing, joined as ``filters``: fields of a catalog query."""

    @click.option("--kind", multiple=True, help="Only this kind (checkpoint, lora, vae ...); may be repeated.")
    @click.option("--architecture", multiple=True, help="Only this architecture (sd-1, sdxl ...); may be repeated.")
    @click.option("--variant", multiple=True, help="Only this variant (inpaint, refiner ...); may be repeated.")
    @click.option("--prediction-type", multiple=True, help="Only this (epsilon, v_prediction ...); may be repeated.")
    @click.option("--precision", multiple=True, help="Only this precision (fp16, fp8 ...); may be repeated.")
    @click.option("--container", multiple=True, help="Only this container (torch-zip ...); may be repeated.")
    @click.option("--verdict", multiple=True, type=click.Choice(VERDICTS), help="Only this verdict; may be repeated.")
    @click.option("--tag", multiple=True, help="Only records with this tag; repeated: with all of them.")
    @click.option("--collection", multiple=True, help="Only records in this collection; repeated: in all of them.")
    @click.option("--rating", type=click.IntRange(0, 5), help="Only records with this rating or a better one.")
    @click.option("--in", "folder", metavar="DIR", help="Only records with a file in this folder or below it.")
    @click.option("--digest", help="Only records of which a digest begins so: AutoV2, AutoV3, SHA-256, CRC-32 ...")
    @click.option("--broken", is_flag=True, help="Only broken files: cut off, web pages, pointers; says what is wrong.")
    @click.option("--sort", type=click.Choice(SORTS), default="name", show_default=True, help="Order of the records.")
    @click.option("--reverse", is_flag=True, help="The other way round.")
    @click.option("--limit", type=click.IntRange(min=1), help="No more than this many records.")
    @click.option("--offset", type=click.IntRange(min=0), default=0, help="Leave out this many records first.")
    @click.option("--gone", is_flag=True, help="Also records whose files are no longer where they were.")
    @functools.wraps(command)
    def run(*args: Any, sort: str, reverse: bool, limit: int | None, offset: int, **kwargs: Any) -> int:
        filters = {name: kwargs.pop(name) or None for name in _NARROWING}
        filters |= {name: kwargs.pop(name) for name in ("broken", "gone", "rating")}
        folder = kwargs.pop("folder")
        filters["folder"] = os.path.abspath(folder) if folder is not None else None
        filters |= {"sort": f"-{sort}" if reverse else sort, "limit": limit, "offset": offset}
        return command(*args, filters=filters, **kwargs)

    return run


def open_catalog(url: str | None, sink: Sink) -> Catalog:
    """The catalog that *url*, the value of ``--catalog``, or else the user's settings name, to be read.

    Raises :class:`CatalogError` for a file that was asked for and is not there; the default one is then empty.
    """
    from modelhub.config import load_settings

    settings = load_settings(catalog=url)
    if settings.catalog is not None and _is_missing(settings.catalog.value):
        raise CatalogError(
            f"{settings.catalog.value}: there is no catalog ({settings.catalog.origin})",
            hint="'modelhub library add DIR' or 'modelhub intake PATH...' with the same catalog makes one",
        )
    if settings.catalog is None and _is_missing(None):
        sink.note("there is no catalog yet: 'modelhub library add DIR' or 'modelhub intake PATH...' makes one")
    return open_settled_catalog(settings, sink, make=False)


def open_settled_catalog(settings: Settings, sink: Sink, *, make: bool = True) -> Catalog:
    """The catalog of *settings*, made if it is not there; without *make* an empty one stands in for it.

    Says which one it is where a file of the working directory chose it.
    """
    from modelhub.config import PROJECT_FILE
    from modelhub.db import Catalog

    chosen = settings.catalog
    url = chosen.value if chosen is not None else None
    catalog = Catalog.open("sqlite://" if not make and _is_missing(url) else url)
    by_folder = chosen is not None and chosen.origin.endswith(PROJECT_FILE)
    sink.note(
        f"catalog: {catalog.url} ({chosen.origin if chosen is not None else 'default'})", level=0 if by_folder else 1
    )
    return catalog


def _is_missing(url: str | None) -> bool:
    """Whether *url* is a file that does not exist yet."""
    from modelhub.db.engine import parse_url

    parsed = parse_url(url)
    name = parsed.database or ""
    in_a_file = parsed.get_backend_name() == "sqlite" and name not in ("", ":memory:") and name[:5] != "file:"
    return in_a_file and not os.path.exists(name)


def answer_found(opened: Catalog, entries: Sequence[Entry], filters: dict[str, Any], sink: Sink) -> None:
    """Print *entries* as what *filters* have found; where that is nothing, say which of their values no record has."""
    answer_entries(entries, sink)
    for name in _VALUED if not entries else ():
        known = opened.values(name)
        for value in filters[name] or ():
            if value not in known:
                what = f"no record has the {name.replace('_', ' ')} {value}"
                sink.note(f"{what}: there are {', '.join(known)}" if known else what)


def answer_entries(entries: Sequence[Entry], sink: Sink) -> None:
    """Print *entries* as the command's answer."""
    from modelhub.db import ENTRY_FIELDS
    from modelhub.report.json import CATALOG_SCHEMA

    if sink.machine:
        for entry in entries:
            sink.add(entry.as_dict())
        sink.document(CATALOG_SCHEMA, "entries")
        sink.rows(ENTRY_FIELDS)
    else:
        from modelhub.report.catalogued import entry_table

        if entries:
            sink.table(entry_table([entry.as_dict() for entry in entries], sink.verbosity))
