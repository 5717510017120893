"""``modelhub smoke``: whether models generate, each tried in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import click

from modelhub.commands import ExitCode, each_source, paths_argument, reason_of, reporting
from modelhub.commands.filters import catalog_option, open_catalog
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.smoke import FindBase, Limits, Settings, SmokeResult


@click.command("smoke")
@paths_argument
@click.option(
    "--preset",
    type=click.Choice(("quick", "standard")),
    default="quick",
    show_default=True,
    help="4 steps at 256 pixels, or 20 at the size that the model was made for.",
)
@click.option("--steps", type=click.IntRange(1, 150), help="Steps of sampling.")
@click.option("--size", type=click.IntRange(64, 2048), help="Pixels of a side, a multiple of 64.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="Where to run; auto takes a CUDA device if there is one.",
)
@click.option(
    "--dtype",
    type=click.Choice(("auto", "fp32", "bf16", "fp16")),
    default="auto",
    show_default=True,
    help="Element type to run in; auto is fp16 on a GPU, and on a CPU bf16 if it knows it, else fp32.",
)
@click.option("--base", metavar="FILE|RECORD", help="Put adapters on this model. [default: one of the catalog]")
@click.option("--tokenizer", metavar="DIR", help="Read prompts with the CLIP vocabulary in DIR.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=1800, show_default=True, help="Seconds that one model may take."
)
@click.option("--max-memory", metavar="SIZE", help="Memory that one model may take on a CPU (16GB). [default: by file]")
@click.option("--images", metavar="DIR", help="Keep the images in DIR.")
@click.option("--report", metavar="FILE", help="Write a page with images, checks and numbers to FILE.")
@click.option(
    "--fail-on",
    type=click.Choice(("suspect", "failed")),
    default="failed",
    show_default=True,
    help="The mildest outcome that ends with exit code 1.",
)
@catalog_option
@reporting
def command(
    *,
    paths: Sequence[str],
    base: str | None,
    catalog: str | None,
    preset: str,
    steps: int | None,
    size: int | None,
    seed: int,
    device: str,
    dtype: str,
    tokenizer: str | None,
    timeout: float,
    max_memory: str | None,
    images: str | None,
    report: str | None,
    fail_on: str,
    sink: Sink,
) -> int:
    """Load and run each PATH, safetensors or a diffusers folder of them, and check what comes of it.

    Checkpoints of SD 1, SD 2 and SDXL generate an image from text, a VAE encodes and decodes pictures; LoRAs and their
    relatives, embeddings and hypernetworks are put on a model, and must change what it generates. Without --base that
    is one of the catalog, or where it has none of their architecture, one of random weights. Nothing is unpickled and
    no network is reached. Ends with 0 when every model passed (or is suspect), with 1 when one failed, with 2 when one
    could not be tested.
    """
    from modelhub.report import smoked
    from modelhub.smoke import Limits, Settings

    if size is not None and size % 64:
        raise click.BadParameter("a multiple of 64 is needed", param_hint="--size")
    settings = Settings(
        preset=cast('Literal["quick", "standard"]', preset),
        steps=steps,
        size=size,
        seed=seed,
        device=device,
        dtype=dtype,
        tokenizer=_vocabulary(tokenizer),
    )
    limits = Limits(timeout, _bytes(max_memory))
    results: list[SmokeResult] = []
    if report is not None:  # before anything is run, so that hours of work do not end at a page that cannot be written
        _write_page(report, results)
    find_base = _bases(base, catalog, sink)
    for path, barred in each_source(paths):
        result = _barred(path, barred, sink) if barred else _smoke(path, settings, limits, find_base, sink)
        results.append(result)
        if images is not None:
            smoked.keep_image(result, images, len(results))
        if sink.machine:
            sink.add(smoked.result_dict(result))
        else:
            sink.lines(smoked.result_lines(result, sink.verbosity))
        if report is not None:  # anew after each model, so that what is done is there whatever comes next
            _write_page(report, results)
    if sink.machine:
        from modelhub.report.json import SMOKE_SCHEMA

        sink.document(SMOKE_SCHEMA, "reports", complete=_complete(results))
    if not results:
        sink.note("nothing to test: no model file was found there")
    bad = {"failed", fail_on}
    if any(result.outcome in bad for result in results):
        return ExitCode.FOUND
    return ExitCode.OK if _complete(results) else ExitCode.INCOMPLETE


def _write_page(path: str, results: Sequence[SmokeResult]) -> None:
    from modelhub.report.smoke_page import write_page

    write_page(path, results)


def _complete(results: Sequence[SmokeResult]) -> bool:
    return bool(results) and all(result.outcome != "not testable" for result in results)


def _bases(base: str | None, catalog: str | None, sink: Sink) -> FindBase:
    """What names the model that adapters for an architecture are put on: *base*, a path or a record, or one of the
    catalog that is safe and lies somewhere."""
    import functools
    import os

    if base is not None:
        path = base if os.path.lexists(base) else _record_path(base, catalog, sink)
        return lambda _: path

    @functools.cache
    def of_catalog(architecture: str) -> str | None:
        from modelhub.db import Query

        wanted = Query(
            kind="checkpoint",
            architecture=architecture,
            verdict="safe",
            container=("safetensors", "diffusers-folder"),
            sort="added",
        )
        with open_catalog(catalog, sink) as opened:
            found = [entry.path for entry in opened.entries(wanted) if entry.variant is None and entry.path is not None]
        return next(filter(os.path.lexists, found), None)

    return of_catalog


def _record_path(selector: str, catalog: str | None, sink: Sink) -> str:
    """Where the record that *selector* fits lies. Raises :class:`CatalogError` where it lies nowhere."""
    from modelhub.errors import CatalogError

    with open_catalog(catalog, sink) as opened:
        entry = opened.show(selector).entry
    if entry.path is None:
        raise CatalogError(f"{selector}: its file is gone")
    return entry.path


def _smoke(path: str, settings: Settings, limits: Limits, find_base: FindBase, sink: Sink) -> SmokeResult:
    from modelhub.errors import MissingExtra
    from modelhub.smoke import smoke

    sink.note(f"testing {path}", level=1)
    try:
        return smoke(path, settings, limits, base=find_base)
    except MissingExtra:
        raise
    except Exception as error:
        return _barred(path, error, sink)


def _barred(path: str, error: Exception, sink: Sink) -> SmokeResult:
    from modelhub.smoke import SmokeResult

    sink.trace(error)
    return SmokeResult(path, "not testable", reason_of(error, path))


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    from modelhub.convert import byte_count

    return byte_count(text)


def _vocabulary(folder: str | None) -> str | None:
    """The folder with the vocabulary that *folder* is or has, as an absolute path.

    Raises :class:`~modelhub.errors.NotFound` where there is none.
    """
    if folder is None:
        return None
    import os
    from contextlib import ExitStack

    from modelhub.convert.tokenizers import open_vocabulary

    with ExitStack() as stack:
        vocabulary = open_vocabulary(folder, stack)
        return os.path.dirname(os.path.abspath(vocabulary["vocab.json"].name))
