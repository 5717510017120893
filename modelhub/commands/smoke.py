"""``modelhub smoke``: whether models generate, tried in a process of their own."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from modelhub.commands import ExitCode, each_source, paths_unless, reason_of, reporting
from modelhub.commands.testing import catalog_for_tests, path_of, paths_of, running, several_devices
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.db import Catalog
    from modelhub.report.smoke_page import Page
    from modelhub.smoke import Calibration, Limits, Outcome, Settings, SmokeResult

_CALIBRATIONS = "thresholds.toml"


@click.command("smoke")
@paths_unless("everything")
@click.option("--all", "everything", is_flag=True, help="Every record of the catalog that there is a test for.")
@click.option("--kind", multiple=True, help="With --all: only this kind (checkpoint, lora ...); may be repeated.")
@click.option("--architecture", multiple=True, help="With --all: only this architecture; may be repeated.")
@click.option("--untested", is_flag=True, help="With --all: only what no test has been kept of.")
@click.option("--accept", is_flag=True, help="Let each image be what later tests of the same bytes are compared with.")
@click.option("--calibrate", is_flag=True, help="Measure thresholds on these models, which are known to be good.")
@click.option(
    "--thresholds", metavar="FILE", help="Judge by the calibration in FILE. [default: the catalog's, if there is one]"
)
@running
@click.option(
    "--devices", metavar="A,B", help="Test on these side by side, one model each: cuda:0,cuda:1. Instead of --device."
)
@click.option("--clip", metavar="FILE|RECORD", help="Score images by this CLIP model. [default: one of the catalog]")
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
    calibrate: bool,
    thresholds: str | None,
    settings: Settings,
    limits: Limits,
    base: str | None,
    catalog: str | None,
    devices: str | None,
    clip: str | None,
    images: str | None,
    report: str | None,
    fail_on: str,
    sink: Sink,
) -> int:
    """Load and run each PATH, safetensors, a diffusers folder of them or a record, and check what comes of it.

    Checkpoints of SD 1 to 3.5, SDXL and FLUX.1 generate an image from text; a UNet or transformer alone has what it
    lacks from --base; a VAE encodes and decodes pictures; a text encoder tells prompts apart; LoRAs and their
    relatives, embeddings, hypernetworks, ControlNets and T2I-Adapters are put on a model, and must change what it
    generates; an upscaler gives back what was made smaller. Without --base that is one of the catalog, or where it
    has none of their architecture, one of random weights. Nothing is unpickled and no network is reached. What the
    catalog knows has its results kept there: 'modelhub show' tells them. Ends with 0
    when every model passed (or is suspect), with 1 when one failed, with 2 when one could not be tested.
    """
    from modelhub.report import smoked
    from modelhub.smoke import SmokeResult, calibrated
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
            _of_catalog(opened, kind, architecture, untested, sink)
            if everything
            else each_source(paths_of(paths, opened))
        )
        place = thresholds or os.path.join(kept, _CALIBRATIONS)
        known = _known_calibrations(place, needed=thresholds is not None and not calibrate)
        trials = stack.enter_context(
            Trials(
                opened,
                settings,
                limits,
                devices=several_devices(devices),
                base=chosen,
                clip=clip if clip is None else path_of(clip, opened),
                images=kept,
                calibrations=None if calibrate else known,
                accept=accept,
            )
        )
        good: list[SmokeResult] = []
        for number, path, found in trials.run_all(_told(sources, sink)):
            result = found if isinstance(found, SmokeResult) else _barred(path, found, sink)
            outcomes.append(result.outcome)
            if images is not None:
                smoked.keep_images(result, images, number)
            if sink.machine:
                sink.add(smoked.result_dict(result))
            else:
                sink.lines(smoked.result_lines(result, sink.verbosity))
            if page is not None:
                page.add(result)
            if calibrate:
                good.append(replace(result, image=None, grid=None))
            del result, found  # its image is let go before the next one is made
        if accept:
            others = "; the others failed, could not be tested, or are not in the catalog as they are"
            sink.note(f"accepted: {trials.accepted} of {len(outcomes)}{others * (trials.accepted < len(outcomes))}")
    made = calibrated(good, datetime.date.today().isoformat())
    if made:
        _write_calibrations(place, known | made)
        for line in smoked.calibration_lines(made, place):
            sink.note(line)
    elif calibrate:
        sink.note("nothing was calibrated: a checkpoint that does not fail is needed")
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
    catalog: Catalog, kinds: tuple[str, ...], architectures: tuple[str, ...], untested: bool, sink: Sink
) -> Iterator[tuple[str, None]]:
    """Where the records lie that are to be tested, after it was told how many are not."""
    from modelhub.db import Query
    from modelhub.trials import to_test

    query = Query(kind=kinds or None, architecture=architectures or None)
    entries, left_out = to_test(catalog, query, untested=untested)
    if left_out:
        sink.note("left out: " + ", ".join(f"{count} {why}" for why, count in left_out.items()))
    for entry in entries:
        assert entry.path is not None
        yield entry.path, None


def _known_calibrations(path: str, *, needed: bool) -> dict[str, Calibration]:
    """The calibrations in the file *path*; where it is not *needed*, it may not be there."""
    from modelhub.smoke import read_calibrations

    return read_calibrations(path) if needed or os.path.lexists(path) else {}


def _write_calibrations(path: str, calibrations: dict[str, Calibration]) -> None:
    from modelhub.errors import SourceError
    from modelhub.report.smoke_page import write_text
    from modelhub.smoke import to_toml

    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    except OSError as error:
        raise SourceError(f"{path}: the thresholds cannot be written there: {error.strerror}") from error
    write_text(path, [to_toml(calibrations)])


def _page(path: str) -> Page:
    from modelhub.report.smoke_page import Page

    return Page(path)


def _complete(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and "not testable" not in outcomes


def _told(sources: Iterable[tuple[str, Exception | None]], sink: Sink) -> Iterator[tuple[str, Exception | None]]:
    """*sources*, each of which is told when its turn comes."""
    for path, barred in sources:
        sink.note(f"testing {path}", level=1)
        yield path, barred


def _barred(path: str, error: Exception, sink: Sink) -> SmokeResult:
    from modelhub.smoke import SmokeResult

    sink.trace(error)
    return SmokeResult(path, "not testable", reason_of(error, path))
