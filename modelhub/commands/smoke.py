"""``modelhub smoke``: whether models generate, tried in a process of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from modelhub.commands import ExitCode, each_source, paths_unless, reason_of, reporting
from modelhub.commands.testing import catalog_for_tests, path_of, paths_of, running
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.db import Catalog
    from modelhub.report.smoke_page import Page
    from modelhub.smoke import Limits, Outcome, Settings, SmokeResult
    from modelhub.trials import Trials


@click.command("smoke")
@paths_unless("everything")
@click.option("--all", "everything", is_flag=True, help="Every record of the catalog that there is a test for.")
@click.option("--kind", multiple=True, help="With --all: only this kind (checkpoint, lora ...); may be repeated.")
@click.option("--architecture", multiple=True, help="With --all: only this architecture; may be repeated.")
@click.option("--untested", is_flag=True, help="With --all: only what no test has been kept of.")
@click.option("--accept", is_flag=True, help="Let each image be what later tests of the same bytes are compared with.")
@running
@click.option("--images", metavar="DIR", help="Keep the images in DIR.")
@click.option("--report", metavar="FILE", help="Write a page with images, checks and numbers to FILE.")
@click.option(
    "--fail-on",
    type=click.Choice(("suspect", "failed")),
    default="failed",
    show_default=True,
    help="The mildest outcome that ends with exit code 1.",
)
@reporting
def command(
    *,
    paths: Sequence[str],
    everything: bool,
    kind: tuple[str, ...],
    architecture: tuple[str, ...],
    untested: bool,
    accept: bool,
    settings: Settings,
    limits: Limits,
    base: str | None,
    catalog: str | None,
    images: str | None,
    report: str | None,
    fail_on: str,
    sink: Sink,
) -> int:
    """Load and run each PATH, safetensors, a diffusers folder of them or a record, and check what comes of it.

    Checkpoints of SD 1, SD 2 and SDXL generate an image from text, a VAE encodes and decodes pictures; LoRAs and their
    relatives, embeddings, hypernetworks, ControlNets and T2I-Adapters are put on a model, and must change what it
    generates; an upscaler gives back what was made smaller. Without --base that is one of the catalog, or where it
    has none of their architecture, one of random weights. Nothing is unpickled and no network is reached. What the
    catalog knows has its results kept there: 'modelhub show' tells them. Ends with 0
    when every model passed (or is suspect), with 1 when one failed, with 2 when one could not be tested.
    """
    from modelhub.report import smoked
    from modelhub.trials import Trials

    if everything and paths:
        raise click.UsageError("Name models, or give --all.")
    if not everything and (kind or architecture or untested):
        raise click.UsageError("--kind, --architecture and --untested narrow --all.")
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        page = None  # begun before anything is run, so that hours of work do not end where it cannot be written
        if report is not None:
            page = stack.enter_context(_page(report))
        opened = stack.enter_context(catalog_for_tests(catalog, sink, needed=everything))
        chosen = base if base is None else path_of(base, opened)
        kept = os.path.join(opened.folder, "smoke")
        sources = (
            _of_catalog(opened, kind, architecture, untested) if everything else each_source(paths_of(paths, opened))
        )
        trials = stack.enter_context(Trials(opened, settings, limits, base=chosen, images=kept, accept=accept))
        for path, barred in sources:
            result = _barred(path, barred, sink) if barred else _tried(trials, path, sink)
            outcomes.append(result.outcome)
            if images is not None:
                smoked.keep_image(result, images, len(outcomes))
            if sink.machine:
                sink.add(smoked.result_dict(result))
            else:
                sink.lines(smoked.result_lines(result, sink.verbosity))
            if page is not None:
                page.add(result)
            del result  # its image is let go before the next one is made
    if sink.machine:
        from modelhub.report.json import SMOKE_SCHEMA

        sink.document(SMOKE_SCHEMA, "reports", complete=_complete(outcomes))
    if not outcomes:
        sink.note("nothing to test: no record fits" if everything else "nothing to test: no model file was found there")
        return ExitCode.OK if untested else ExitCode.INCOMPLETE
    bad = {"failed", fail_on}
    if not bad.isdisjoint(outcomes):
        return ExitCode.FOUND
    return ExitCode.OK if _complete(outcomes) else ExitCode.INCOMPLETE


def _of_catalog(
    catalog: Catalog, kinds: tuple[str, ...], architectures: tuple[str, ...], untested: bool
) -> Iterator[tuple[str, None]]:
    """Where the records lie that are to be tested."""
    from modelhub.db import Query
    from modelhub.trials import to_test

    for entry in to_test(catalog, Query(kind=kinds or None, architecture=architectures or None), untested=untested):
        assert entry.path is not None
        yield entry.path, None


def _page(path: str) -> Page:
    from modelhub.report.smoke_page import Page

    return Page(path)


def _complete(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and "not testable" not in outcomes


def _tried(trials: Trials, path: str, sink: Sink) -> SmokeResult:
    from modelhub.errors import CatalogError, MissingExtra

    sink.note(f"testing {path}", level=1)
    try:
        return trials.run(path)
    except (MissingExtra, CatalogError):
        raise
    except Exception as error:
        return _barred(path, error, sink)


def _barred(path: str, error: Exception, sink: Sink) -> SmokeResult:
    from modelhub.smoke import SmokeResult

    sink.trace(error)
    return SmokeResult(path, "not testable", reason_of(error, path))
