"""``modelhub demo``: a sample library, intake on it, and smoke tests of two small models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from modelhub.commands import ExitCode, reporting
from modelhub.commands.intake import take_in
from modelhub.errors import SourceError, WouldOverwrite
from modelhub.report.plain import Span, line
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.library import IntakeResult
    from modelhub.samples.library import Sample

MARK = ".modelhub-demo"
"""File that marks a folder as one of the demo's own."""


@click.command("demo")
@click.argument("directory", metavar="[DIR]", default="modelhub-demo")
@reporting
def command(*, directory: str, sink: Sink) -> int:
    """Build a library of sample models in DIR (default: ./modelhub-demo) and run intake on it.

    Good files, broken downloads and harmless stand-ins for malicious ones; catalog and library lie inside DIR. Where
    torch and diffusers are installed, two small models are run, too. Ends with 0 only if everything came out as
    labelled.
    """
    from modelhub.db import Catalog
    from modelhub.library import IntakeOptions
    from modelhub.samples.library import MARKER, build_sample_library

    _make_folder(directory)
    downloads, library = os.path.join(directory, "downloads"), os.path.join(directory, "library")
    sink.note(f"writing sample models into {downloads}")
    samples = build_sample_library(downloads)
    with Catalog.open(os.path.join(directory, "catalog.db")) as catalog:
        results = take_in([downloads], catalog, IntakeOptions(library=library), sink)
    if sink.machine:
        from modelhub.report.json import INTAKE_SCHEMA

        sink.document(INTAKE_SCHEMA, "reports", complete=True, dry_run=False)
    differences = _differences(samples, results)
    if os.path.exists(os.path.join(downloads, MARKER)):
        differences.append(f"{downloads}: the payload of a malicious sample was run")
    for difference in differences:
        sink.warn(difference)
    if differences:
        return ExitCode.INCOMPLETE
    sink.note(
        *line(Span("all as labelled: ", "safe"), f"{len(samples)} files judged, identified and catalogued rightly, "),
        "and the payload of none was run",
    )
    code = _try_out(directory, sink)
    sink.note(f"look around: modelhub list --catalog {os.path.join(directory, 'catalog.db')}")
    return code


def _try_out(directory: str, sink: Sink) -> int:
    """Run a model that works and one that was never trained, and write the page of what came of them."""
    from modelhub.smoke import missing_library

    missing = missing_library()
    if missing is not None:
        sink.note(f"no model was run: {missing} is not installed (the extra 'smoke' brings it)")
        return ExitCode.OK
    from modelhub.report.smoke_page import Page
    from modelhub.report.smoked import result_lines
    from modelhub.samples.runnable import build_runnable_models
    from modelhub.smoke import Limits, Settings
    from modelhub.trials import Trials

    labelled = build_runnable_models(os.path.join(directory, "runnable"))
    sink.note(f"running {len(labelled)} small models")
    results = []
    page = os.path.join(directory, "smoke.html")
    settings = Settings(size=64, device="cpu", dtype="fp32")
    with Page(page) as written, Trials(None, settings, Limits(), keeps=False) as trials:
        for path, _ in labelled:
            results.append(trials.run(path))
            written.add(results[-1])
            if not sink.machine:
                sink.lines(result_lines(results[-1]))
    sink.note(f"images, checks and numbers: {page}")
    wrong = [r for r, (_, outcome) in zip(results, labelled, strict=True) if r.outcome != outcome]
    for result in wrong:
        sink.warn(f"{result.path}: came out as {result.outcome}: {result.sentence}")
    return ExitCode.INCOMPLETE if wrong else ExitCode.OK


def _make_folder(directory: str) -> None:
    """Make *directory* the demo's own; refuse one that holds anything else."""
    mark = os.path.join(directory, MARK)
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory) and not os.path.isfile(mark):
            raise WouldOverwrite(
                f"{directory}: a folder that holds other things", hint="name a new folder: modelhub demo DIR"
            )
        with open(mark, "w", encoding="utf-8") as file:
            file.write("This folder belongs to 'modelhub demo', which may replace what is in it.\n")
    except OSError as error:
        raise SourceError(f"{directory}: cannot be used: {error.strerror}") from error


def _differences(samples: tuple[Sample, ...], results: list[IntakeResult]) -> list[str]:
    """In words, each way in which a sample did not come out as its label says."""
    from modelhub.report.taken_in import fact_of, verdict_of

    by_path = {os.path.realpath(result.path): result for result in results}
    found = []
    for sample in samples:
        result = by_path.get(os.path.realpath(sample.path))
        if result is None:
            found.append(f"{sample.path}: was not examined")
            continue
        said = (verdict_of(result), fact_of(result, "kind"), fact_of(result, "architecture"))
        labelled = (sample.verdict, sample.kind, sample.architecture)
        if said != labelled:
            found.append(f"{sample.path}: came out as {_words(said)}, but is {_words(labelled)}")
        elif sample.verdict == "safe" and result.error is not None:
            found.append(str(result.error))
    return found


def _words(facts: tuple[str | None, ...]) -> str:
    return ", ".join(fact or "not identified" for fact in facts)
