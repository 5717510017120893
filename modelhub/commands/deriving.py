"""What the commands that make a model of others share: their progress, their answer, and the step in a catalog."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from modelhub.commands import ExitCode
from modelhub.errors import CatalogError, SettingsError
from modelhub.report.plain import Line
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.source import Digest, FileStat, Source


@contextmanager
def progress_of(path: str, sink: Sink) -> Iterator[Callable[[int], None] | None]:
    """What takes the bytes that are done of *path* and shows them; ``None`` where nobody looks."""
    with sink.progress() as bar:
        if bar is not None:
            bar.begin_file(path)
        yield bar.advance if bar is not None else None


def named_target(target: str | None, recipe: str | None = None) -> str:
    """Where the output goes: to *target*, else where a *recipe* says. Raises :class:`click.UsageError` for nowhere."""
    found = target if target is not None else recipe
    if found is None:
        raise click.UsageError("Missing option '-o' / '--output'.", ctx=click.get_current_context())
    return found


def answer(
    sink: Sink, schema: str, value: Callable[..., dict[str, Any]], lines: Callable[..., Iterable[Line]], *told: object
) -> ExitCode:
    """Answer with the *value* of *told*, a plan and its target or what was done, or to people with *lines* on it."""
    if sink.machine:
        sink.add(value(*told))
        sink.document(schema, "reports", complete=True)
    else:
        sink.lines(lines(*told, sink.verbosity))
    return ExitCode.OK


def known_digests(paths: Iterable[str], catalog: str | None, sink: Sink) -> Mapping[FileStat, str]:
    """The SHA-256 that *catalog*, or else the one of the user's settings, has of the files at *paths*, by their stats.

    Raises :class:`CatalogError` for a *catalog* that cannot be asked; settings that cannot be followed are passed over.
    """
    from modelhub.config import load_settings

    try:
        settings = load_settings(catalog=catalog)
        if settings.catalog is None or (catalog is None and _is_no_file(settings.catalog.value)):
            return {}
        from modelhub.commands.filters import open_settled_catalog

        with open_settled_catalog(settings, sink, make=False) as opened:
            return opened.digests.at([os.path.abspath(path) for path in paths])
    except (CatalogError, SettingsError) as error:
        if catalog is not None:
            raise
        sink.note(f"{error}: digests are computed")
        return {}


def _is_no_file(catalog: str) -> bool:
    """Whether *catalog* is the path of a file that is not there: nothing is loaded to be told that it knows nothing."""
    return "://" not in catalog and not os.path.exists(os.path.expanduser(catalog))


def remember(
    kind: str,
    *,
    target: str,
    inputs: Sequence[tuple[Digest, str]],
    params: Mapping[str, object],
    read: Iterable[tuple[Source, str]] = (),
    catalog: str,
    sink: Sink,
) -> None:
    """Take *target*, a file or a folder, into *catalog*, and write down there that it was made of *inputs*, each with
    its role.

    The SHA-256 of the files that were *read* is written down too where the catalog has a file and lacks it.
    """
    from modelhub import __version__
    from modelhub.commands.filters import open_settled_catalog
    from modelhub.config import load_settings
    from modelhub.library import IntakeOptions, intake
    from modelhub.source import Digest, LocalSource

    with open_settled_catalog(load_settings(catalog=catalog), sink) as opened:
        opened.digests.learn({file.stat: sha256 for file, sha256 in read if isinstance(file, LocalSource)})
        (taken,) = intake([target], opened, IntakeOptions(convert=False))
        if taken.error is not None:
            raise taken.error
        assert taken.entry is not None and taken.entry.digest is not None
        output = Digest(taken.entry.digest)
        if all(digest != output for digest, _ in inputs):  # a folder of which nothing changed is what it was
            opened.derive(kind, output=output, inputs=inputs, params=params, version=__version__)


def digest_at(path: str, known: Mapping[str, str] | None = None) -> Digest:
    """The digest by which the catalog has the file or folder *path*; *known* are those of its files, by name."""
    from modelhub.container import open_path
    from modelhub.intake import digest_of_container
    from modelhub.source import Digest

    with open_path(path) as container:
        if container.source is not None and known is not None and len(known) == 1:
            return Digest(*known.values())
        return digest_of_container(container)
