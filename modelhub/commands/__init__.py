"""The commands, one module each, and what they share: their options and the rule for their exit code."""

from __future__ import annotations

import enum
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from modelhub.errors import NotFound, SourceError
from modelhub.failures import reason_of as reason_of
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.container import Container
    from modelhub.scan.findings import ScanReport, Verdict
    from modelhub.source.hub_cache import HubCache


STDIN = "-"
"""The path that stands for standard input."""
_LONGEST_STDIN = 64 << 30


class ExitCode(enum.IntEnum):
    """What the process ends with; a finding outranks everything that was not examined."""

    OK = 0
    FOUND = 1
    INCOMPLETE = 2


VERBOSITY = "modelhub.verbosity"
"""Key of click's shared ``meta`` under which the number of ``-v`` is kept (-1: ``-q``)."""


Command = Callable[..., int]


def reporting_in(*formats: str, answer: str = "-o") -> Callable[[Command], Command]:
    """Give a command the options ``--format``, ``-o``, ``-q`` and ``-v``, and an open :class:`Sink` as ``sink``.

    *formats* are those it knows beside text for people, ``json`` and ``jsonl``. *answer* is the option that names a
    file for the answer.
    """
    names = ("-o", "--output") if answer == "-o" else (answer,)
    known = ("human", "json", "jsonl", *formats)
    named = {"sarif": "SARIF 2.1.0", "csv": "CSV (RFC 4180)"}
    more = "".join(f", or {named.get(name, name)}" for name in formats)

    def decorate(command: Command) -> Command:
        @click.option(
            "--format",
            type=click.Choice(known),
            default="human",
            show_default=True,
            help=f"Text for people, one JSON document, {'' if more else 'or '}one JSON object per line{more}.",
        )
        @click.option(*names, "answer_file", metavar="FILE", help="Write the answer to FILE when it is complete.")
        @click.option("-q", "--quiet", is_flag=True, help="Say nothing beside the answer.")
        @click.option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks of internal errors.")
        @functools.wraps(command)
        def run(*args: Any, format: Any, answer_file: str | None, quiet: bool, verbose: int, **kwargs: Any) -> int:
            verbosity = -1 if quiet else verbose
            click.get_current_context().meta[VERBOSITY] = verbosity
            with Sink(format, answer_file, verbosity) as sink:
                return command(*args, sink=sink, **kwargs)

        return run

    return decorate


reporting = reporting_in()
"""The options of :func:`reporting_in` for a command that knows no other formats."""

making = reporting_in(answer="--report")
"""The same for a command whose ``-o`` is the model that it writes."""


def paths_unless(*flags: str) -> Callable[[Command], Command]:
    """Give a command ``PATH...`` and ``--files-from``, joined as ``paths``.

    At least one of them is needed, unless one of the options *flags* is given.
    """

    def decorate(command: Command) -> Command:
        @click.argument("paths", metavar="PATH...", nargs=-1)
        @click.option(
            "--files-from",
            metavar="FILE",
            help="Take more paths from FILE (- for standard input), one per line or separated by NUL.",
        )
        @functools.wraps(command)
        def run(*args: Any, paths: tuple[str, ...], files_from: str | None, **kwargs: Any) -> int:
            if not paths and files_from is None and not any(kwargs[flag] for flag in flags):
                raise click.UsageError("Missing argument 'PATH...'.", ctx=click.get_current_context())
            if files_from == STDIN and STDIN in paths:
                raise click.UsageError("Standard input cannot be both a model and a list of paths.")
            listed = listed_lines(files_from) if files_from is not None else []
            return command(*args, paths=[*paths, *listed], **kwargs)

        return run

    return decorate


paths_argument = paths_unless()
"""The arguments of :func:`paths_unless` for a command that cannot do without a path."""


def hf_cache_option(command: Command) -> Command:
    """Give *command* ``--hf-cache [DIR]`` as ``hf_cache``: the cache's folder, huggingface_hub's own without DIR."""

    def folder(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        from modelhub.source.hub_cache import default_cache

        return default_cache() if value == "" else value

    option = click.option(
        "--hf-cache",
        metavar="[DIR]",
        is_flag=False,
        flag_value="",
        callback=folder,
        help="All of the Hugging Face cache in DIR, each content once. [default: where huggingface_hub keeps it]",
    )
    return option(command)


def cache_at(folder: str | None) -> HubCache | None:
    """The Hugging Face cache that ``--hf-cache`` names, ``None`` without it."""
    if folder is None:
        return None
    from modelhub.source.hub_cache import HubCache

    return HubCache(folder)


def judging(command: Command) -> Command:
    """Give *command* ``--fail-on`` and ``--exit-zero``, joined as ``outcome``, an :class:`Outcome` to add to."""

    @click.option(
        "--fail-on",
        type=click.Choice(("unknown", "suspicious", "unsafe")),
        help="The mildest verdict that ends with exit code 1. [default: suspicious]",
    )
    @click.option("--exit-zero", is_flag=True, help="End with 0 whatever is found; only wrong usage still ends with 2.")
    @functools.wraps(command)
    def run(*args: Any, fail_on: str | None, exit_zero: bool, **kwargs: Any) -> int:
        from modelhub.config import fail_on_setting
        from modelhub.scan.findings import Verdict

        threshold = Verdict[fail_on_setting(fail_on).value.upper()]
        return command(*args, outcome=Outcome(threshold, exit_zero), **kwargs)

    return run


def listed_lines(listing: str) -> list[str]:
    """What the file *listing* (- for standard input) lists, paths say: separated by NUL if it holds one (``find
    -print0``), else one per line."""
    try:
        if listing == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(listing, "rb") as file:
                data = file.read()
    except FileNotFoundError as error:
        raise NotFound(f"{listing}: no such file") from error
    except OSError as error:
        raise SourceError(f"{listing}: cannot be read: {error.strerror}") from error
    if b"\0" in data:
        names = data.split(b"\0")
    else:
        names = [name.removesuffix(b"\r") for name in data.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


class Outcome:
    """What a run over many files comes to.

    *fail_on* is the mildest verdict that counts as found. 1: a file's verdict reached it. 2: otherwise, if a file was
    not fully examined or is :attr:`Verdict.UNKNOWN`, or there was none. 0: otherwise, or with *exit_zero*.
    """

    def __init__(self, fail_on: Verdict, exit_zero: bool = False) -> None:
        self._fail_on = fail_on
        self._exit_zero = exit_zero
        self._found = False
        self._open = False
        self._failed = False
        self._seen = False

    def add(self, verdict: Verdict | None, *, complete: bool) -> None:
        """One file: its *verdict* (``None``: it has none) and whether it was examined to the last byte."""
        self._seen = True
        self._found |= verdict is not None and verdict >= self._fail_on
        self._open |= verdict is None or verdict.label == "unknown"
        self._failed |= not complete

    def add_report(self, report: ScanReport) -> None:
        self.add(report.verdict, complete=report.coverage.complete)

    @property
    def complete(self) -> bool:
        """Whether everything asked for was examined, and there was something."""
        return self._seen and not self._failed

    @property
    def exit_code(self) -> int:
        if self._exit_zero:
            return ExitCode.OK
        if self._found:
            return ExitCode.FOUND
        return ExitCode.OK if self.complete and not self._open else ExitCode.INCOMPLETE


def on_terminal() -> bool:
    """Whether somebody may be watching progress on standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def each_source(
    paths: Sequence[str], *, addresses: bool = False, cache: HubCache | None = None
) -> Iterator[tuple[str, SourceError | None]]:
    """The files and folders that *paths* lead to, and the models in *cache*, each with the error that bars the way to
    it, if one does."""
    from modelhub.source import find_sources

    if STDIN in paths:
        yield STDIN, None
    cached = (each for each in cache.find() if isinstance(each, SourceError) or each.expected) if cache else ()
    for found in chain(find_sources((path for path in paths if path != STDIN), addresses=addresses), cached):
        if isinstance(found, SourceError):
            yield found.path or "", found
        else:
            yield found.path, None


def target_of(path: str) -> str | Container:
    """*path*, or, where it stands for standard input, the container that standard input holds."""
    if path != STDIN:
        return path
    from modelhub.container import open_container
    from modelhub.source.stream import spool

    return open_container(spool(STDIN, sys.stdin.buffer, _LONGEST_STDIN))
