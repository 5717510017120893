"""The command line: the group of commands, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from modelhub import __version__
from modelhub.commands import VERBOSITY, ExitCode
from modelhub.errors import ModelHubError, UnsafeModelError
from modelhub.report.plain import visible
from modelhub.report.sink import traceback_lines, wants_traceback
from modelhub.termination import Terminated

COMMANDS: Mapping[str, str] = {
    "intake": "Examine, convert, identify and catalogue downloads: the main job.",
    "fetch": "Download models that are safe, judged before and after.",
    "outdated": "List what was fetched from the Hub and has been changed there since.",
    "update": "Fetch the newer file of a record, in place of the old one.",
    "push": "Push a safe safetensors file to the Hub, with receipt and model card.",
    "demo": "Build a sample library in a folder of its own and run intake on it.",
    "scan": "Say what loading a file would do: verdict and findings, nothing changed.",
    "inspect": "Say which model a file is: container, identity, tensors, metadata.",
    "explain": "Explain a rule of the scanner: its meaning, an example, what to do.",
    "hash": "Compute the digests that people know model files by, in one reading.",
    "convert": "Turn a checkpoint into safetensors, never executing anything.",
    "verify": "Check a converted file against its receipt or its source.",
    "restore": "Make a hypernetwork's safetensors file the .pt that programs load.",
    "merge": "Merge LoRAs and their relatives into a model's weights.",
    "blend": "Blend checkpoints: weighted sums, added differences, arcs.",
    "extract": "Make a LoRA of the difference of two models.",
    "resize": "Give a LoRA a smaller rank.",
    "smoke": "Try models out: does each load, generate, and heed its prompt?",
    "compare": "Draw the same with two models, and tell how alike it is.",
    "library": "Follow folders of models, and know their files again wherever they go.",
    "list": "List the catalog's records.",
    "show": "Show everything the catalog knows of one record.",
    "search": "Find records by name, tag or what is known of them.",
    "tag": "Tag records, or take tags away.",
    "tags": "List the tags that there are.",
    "note": "Write notes on records.",
    "rate": "Rate records from 0 to 5.",
    "collection": "Keep records in collections.",
    "group": "Say which records are one model: its versions, its fp16 twin.",
    "set": "Set facts of a record that its files get wrong; they always win.",
    "unset": "Leave facts of a record to its files again.",
    "reidentify": "Identify known files by new rules, without opening them.",
    "enrich": "Ask a service that you have named what it knows of records.",
    "export": "Write what is known of records as side files for other programs.",
    "duplicates": "List files with the same bytes, or with the same tensors.",
    "db": "Check the catalog, copy it, take it elsewhere, and mend it.",
}
"""Every command and its line of help, in the order of the sections; ``modelhub --help`` loads none of them."""

_SECTIONS: Mapping[str, str] = {
    "intake": "Begin here",
    "scan": "Look, and change nothing",
    "convert": "Make other files",
    "smoke": "Try models out",
    "library": "Know what is there",
}
"""Headings of ``modelhub --help`` by the first command below each."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it. After another signal it is 128 + that one."""
BROKEN_PIPE = 141
"""Exit code when the reader of standard output has gone: 128 + SIGPIPE."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"modelhub.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, line in COMMANDS.items():
            if name in _SECTIONS:
                below = sections.setdefault(_SECTIONS[name], [])
            below.append((name.ljust(width), line))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="modelhub", message="%(prog)s %(version)s")
def cli() -> None:
    """Judge, convert and catalogue model files, never running a byte of them.

    'modelhub COMMAND --help' explains a command. Exit codes: 0, everything asked for was examined and nothing was
    found; 1, something was found; 2, something was not fully examined, an error, or wrong usage.
    """


class Explanation(NamedTuple):
    """What to tell the user of an error: a sentence, the next step, and the exit code."""

    sentence: str
    hint: str | None
    exit_code: int


def explain(error: BaseException) -> Explanation:
    """The table of errors."""
    match error:
        case UnsafeModelError():
            refused = error.report.verdict.label in ("suspicious", "unsafe")
            return Explanation(str(error), error.hint, ExitCode.FOUND if refused else ExitCode.INCOMPLETE)
        case ModelHubError():
            return Explanation(str(error), error.hint, ExitCode.INCOMPLETE)
        case click.ClickException():
            return Explanation(error.format_message(), None, ExitCode.INCOMPLETE)
        case Terminated() if error.number != INTERRUPTED - 128:
            return Explanation(f"ended by {_signal_name(error.number)}", None, 128 + error.number)
        case KeyboardInterrupt() | click.Abort() | EOFError():
            return Explanation("interrupted", None, INTERRUPTED)
        case MemoryError():
            return Explanation("there is not enough memory for this", None, ExitCode.INCOMPLETE)
        case OSError():
            reason = error.strerror or str(error) or type(error).__name__
            named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
            return Explanation(f"{named}{reason}", None, ExitCode.INCOMPLETE)
        case _:
            return Explanation(
                f"modelhub failed where it should not: {type(error).__name__}: {error}",
                "please report this, with what the same command prints with -vv",
                ExitCode.INCOMPLETE,
            )


def _signal_name(number: int) -> str:
    import signal

    return signal.Signals(number).name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with *arguments* (default: the process's own) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _tolerate_any_name(sys.stdout, sys.stderr)
    if "_MODELHUB_COMPLETE" in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "modelhub", "_MODELHUB_COMPLETE", os.environ["_MODELHUB_COMPLETE"])
    shared: dict[str, Any] = {}
    try:
        try:
            with cli.make_context("modelhub", words) as context:
                shared = context.meta
                code = cli.invoke(context)
        except click.exceptions.Exit as end:
            code = end.exit_code
        if sys.stdout is not None:
            sys.stdout.flush()
        return int(code or 0)
    except BrokenPipeError:
        _silence(sys.stdout)
        return BROKEN_PIPE
    except click.UsageError as error:
        return _complain_of_usage(error)
    except (Exception, KeyboardInterrupt) as error:
        return _complain(error, debug=wants_traceback(shared.get(VERBOSITY, 0)))


def _complain(error: BaseException, *, debug: bool) -> int:
    explanation = explain(error)
    if debug and not isinstance(error, KeyboardInterrupt):
        for text in traceback_lines(error):
            _say(visible(text))
    _say(f"error: {visible(explanation.sentence)}")
    if explanation.hint is not None:
        _say(f"hint: {visible(explanation.hint)}")
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        _silence(sys.stdout)
    return explanation.exit_code


def _complain_of_usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _say(error.format_message())
        return ExitCode.INCOMPLETE
    if error.ctx is not None:
        _say(error.ctx.get_usage())
        _say(f"Try '{error.ctx.command_path} --help' for help.\n")
    _say(f"error: {visible(error.format_message())}")
    return ExitCode.INCOMPLETE


def _say(text: str) -> None:
    if sys.stderr is not None:
        try:
            print(text, file=sys.stderr)
        except OSError:
            _silence(sys.stderr)


def _tolerate_any_name(*streams: object) -> None:
    """Let the streams write what their encoding lacks as an escape instead of failing on it."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: object) -> None:
    """Point the stream's descriptor at nothing, so that closing it at exit cannot fail aloud."""
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return
