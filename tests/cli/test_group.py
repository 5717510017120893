"""The group of commands."""

from __future__ import annotations

import re

import click
import pytest

import modelhub
from modelhub.cli import COMMANDS, cli
from tests.cli.run import ROOT
from tests.cli.run import modelhub as run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """Every command has its name, a help text, and a help for each of its options."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    ran = run(name, "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.startswith(f"Usage: modelhub {name} ")


def test_version() -> None:
    """--version prints the package's version."""
    assert run("--version").out == f"modelhub {modelhub.__version__}\n"


def test_readme_lists_every_command() -> None:
    """The README's table of commands is the one that ``modelhub --help`` prints."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Commands\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `([a-z]+)` \| (.+) \|$", section, re.MULTILINE)
    assert dict(rows) == COMMANDS


def test_help_shows_every_command_once_below_a_heading() -> None:
    """``modelhub --help`` sorts the commands by what they are for, and leaves none out."""
    text = run("--help").out
    assert re.findall(r"^  ([a-z]+)  +[A-Z]", text, re.MULTILINE) == list(COMMANDS)
    headings = re.findall(r"^(\S.*):\n  [a-z]+ ", text, re.MULTILINE)
    assert headings[0] == "Begin here"
    assert len(set(headings)) == len(headings) > 3


def test_every_command_module_is_a_command() -> None:
    """Each module of modelhub.commands that defines a command is in the table of commands, and the other way round."""
    modules = {
        path.stem
        for path in (ROOT / "modelhub" / "commands").glob("*.py")
        if re.search(r"^@click\.(command|group)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert modules == set(COMMANDS)
