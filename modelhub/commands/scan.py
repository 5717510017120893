"""``modelhub scan``: verdict and findings, nothing changed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import click

from modelhub.commands import (
    STDIN,
    ExitCode,
    Outcome,
    cache_at,
    hf_cache_option,
    judging,
    paths_unless,
    reporting_in,
    target_of,
)
from modelhub.errors import ModelHubError
from modelhub.report.plain import counted
from modelhub.report.sink import Sink, wants_traceback

if TYPE_CHECKING:
    from modelhub.container import Container
    from modelhub.judging import Answer, Progress, ScanOptions
    from modelhub.report.human import ByteProgress
    from modelhub.scan.explain import Decompiled
    from modelhub.source.hub_cache import HubCache
    from modelhub.sweep import OnFile


@click.command("scan")
@paths_unless("list_rules", "hf_cache")
@hf_cache_option
@click.option("--deep", is_flag=True, help="Read every byte of every member and check all checksums.")
@click.option(
    "--digest/--no-digest",
    default=None,
    help="Read all bytes for the SHA-256, or do not. [default: only of files up to 4 MiB]",
)
@click.option(
    "--second-opinion/--no-second-opinion",
    default=None,
    help="Have fickling look at the pickles too, or do not. [default: of what is unknown or suspicious]",
)
@click.option("--explain", is_flag=True, help="Show the pickles of what is not SAFE as Python, with byte offsets.")
@click.option("--policy", metavar="FILE", help="Allow what the TOML FILE lists as well; the reports say so.")
@click.option("--by-name", is_flag=True, help="In folders, look only at files with a model's extension.")
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Processes to scan with. [default: as many as are worth it]"
)
@click.option(
    "--cache/--no-cache",
    default=None,
    help="Keep verdicts and trust those of unchanged files, or do not. [default: with many files, or --digest]",
)
@click.option("--list-rules", is_flag=True, help="List every rule that a finding can name, and do nothing else.")
@judging
@reporting_in("sarif")
def command(
    *,
    paths: Sequence[str],
    hf_cache: str | None,
    deep: bool,
    digest: bool | None,
    second_opinion: bool | None,
    explain: bool,
    policy: str | None,
    by_name: bool,
    jobs: int | None,
    cache: bool | None,
    list_rules: bool,
    outcome: Outcome,
    sink: Sink,
) -> int:
    """Say what loading each PATH would do. Nothing is executed and nothing is changed.

    A file named here is examined by its content, whatever its name, and so is each file of a folder; of those, what is
    no model and does no harm is not mentioned. What lies in the Hugging Face cache is called by its address there. - is
    standard input. SAFE means that every byte a loader could interpret
    was read and understood.
    """
    if list_rules:
        from modelhub.commands.explain import list_rules as list_all

        list_all(sink)
        return ExitCode.OK
    from modelhub.judging import ScanOptions
    from modelhub.scan import load_policy
    from modelhub.source import find_sources
    from modelhub.sweep import sweep

    options = ScanOptions(load_policy(policy), digest, deep, second_opinion)
    hub_cache = cache_at(hf_cache)
    run = _Run(paths, hub_cache, options, outcome, sink, explain=explain)
    with sink.progress() if options.reads_all else nullcontext() as bar:
        progress, on_file = (bar.advance, _beginner(bar, options)) if bar else (None, None)
        if STDIN in paths:
            run.add(run.judge_stdin(progress, on_file))
        named = find_sources((path for path in paths if path != STDIN), every_file=not by_name, addresses=True)
        sources = chain(named, hub_cache.find()) if hub_cache is not None else named
        with closing(
            sweep(sources, options, jobs=jobs, cache=cache, progress=progress, on_file=on_file, on_note=sink.note)
        ) as answers:
            for answer in answers:
                run.add(answer)
    return run.finish()


class _Run:
    """What the answers to one command come to."""

    def __init__(
        self,
        paths: Sequence[str],
        hub_cache: HubCache | None,
        options: ScanOptions,
        outcome: Outcome,
        sink: Sink,
        *,
        explain: bool,
    ) -> None:
        self._paths = paths
        self._hub_cache = hub_cache
        self._options = options
        self._outcome = outcome
        self._sink = sink
        self._explain = explain
        self._verdicts: Counter[str] = Counter()
        self._stdin: Container | None = None

    def judge_stdin(self, progress: Progress | None, on_file: OnFile | None) -> Answer:
        """Scan what standard input holds."""
        from modelhub.judging import failure, judge

        if on_file is not None:
            on_file(STDIN)
        try:
            target = target_of(STDIN)
        except Exception as error:
            return failure(STDIN, error, self._options.policy)
        assert not isinstance(target, str)
        self._stdin = target
        return judge(target, STDIN, self._options, progress)

    def add(self, answer: Answer) -> None:
        """Count the answer, and show it."""
        report, sink = answer.report, self._sink
        self._outcome.add_report(report)
        self._verdicts[report.verdict.label] += 1
        if answer.traceback is not None and wants_traceback(sink.verbosity):
            for text in answer.traceback.splitlines():
                sink.note(text)
        explained = self._explain and report.verdict.label != "safe" and report.container is not None
        pickles = self._decompiled(report.path) if explained else ()
        beside: dict[str, object] = {}
        if self._hub_cache is not None and (name := self._hub_cache.address_of(report.path)) != report.path:
            beside["file"] = report.path
            report = replace(report, path=name)
        if sink.machine:
            from modelhub.report.explained import explained_dicts
            from modelhub.report.json import scan_dict

            if explained:
                beside["pickles"] = explained_dicts(pickles)
            sink.add({**scan_dict(report), **beside})
        else:
            from modelhub.report.scanned import scan_lines

            sink.lines(scan_lines(report, sink.verbosity))
            if pickles:
                from modelhub.report.explained import explained_lines

                sink.lines(explained_lines(pickles))

    def _decompiled(self, path: str) -> tuple[Decompiled, ...]:
        """The pickles of what is shown as *path*; none where it cannot be opened any more."""
        from modelhub.container import open_anywhere
        from modelhub.scan.explain import decompile
        from modelhub.source import shown_address

        meant = {each for each in self._paths if each != path and shown_address(each) == path}
        if len(meant) > 1:
            self._sink.warn(f"{path}: not explained: several addresses differ only in their queries")
            return ()
        path = next(iter(meant), path)
        try:
            with nullcontext(self._stdin) if path == STDIN and self._stdin else open_anywhere(path) as container:
                return decompile(container, policy=self._options.policy)
        except ModelHubError as error:
            self._sink.warn(str(error))
            return ()

    def finish(self) -> int:
        """Say what all of it comes to; returns the exit code."""
        if self._sink.machine:
            from modelhub.report.json import SCAN_SCHEMA

            self._sink.document(SCAN_SCHEMA, "reports", complete=self._outcome.complete)
        from modelhub.report.scanned import tally

        nothing = "nothing to scan: no model file was found there"
        self._sink.note(tally(self._verdicts.elements()) if self._verdicts else nothing)
        if self._hub_cache is not None and self._hub_cache.incomplete:
            self._sink.note(f"{counted(self._hub_cache.incomplete, 'download')} not finished, and not looked at")
        return self._outcome.exit_code


def _beginner(bar: ByteProgress, options: ScanOptions) -> OnFile:
    """What starts *bar* over for a file: as long as the file, times the times that it is read."""
    from modelhub.source import shown_address

    times = (options.digest is True) + options.deep

    def begin(path: str | None) -> None:
        if path is None:
            bar.begin("several files at once", None)
        else:
            size = os.path.getsize(path) if os.path.isfile(path) else None
            bar.begin(os.path.basename(shown_address(path)), None if size is None else size * times)

    return begin
