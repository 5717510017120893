"""What starting the commands costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.run import ROOT

HEAVY = {"numpy", "torch", "sqlalchemy", "alembic", "rich", "safetensors", "fickling", "platformdirs", "diffusers"}
HEAVY_STDLIB = {"asyncio", "logging", "pathlib", "sqlite3", "tempfile", "unittest", "urllib", "zipfile"}
LIMIT = 110
"""Modules not our own, beyond those of a bare interpreter, that a command may load; click alone is 62 of them."""


def _modules(code: str, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules, file=sys.stderr)", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


def _loaded(*arguments: str) -> set[str]:
    """Modules that ``modelhub ARGUMENTS`` loads beyond a bare interpreter's, its output not being a terminal."""
    run = "import sys; from modelhub.cli import main; sys.stdout.flush(); main(sys.argv[1:])"
    return _modules(run, *arguments) - _modules("import sys")


COMMANDS = [
    ("--help",),
    ("scan", "safe.pt", "safe.safetensors"),
    ("scan", "--format", "json", "unsafe.pt"),
    ("inspect", "safe.pt", "safe.safetensors"),
    ("inspect", "--format", "json", "--tensors", "safe.pt"),
    ("convert", "safe.pt", "out.safetensors"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_start_light(make: Callable[..., None], arguments: tuple[str, ...]) -> None:
    """Help, scan, inspect and convert load no large library, and no rich where nobody looks at a terminal."""
    make("safe.pt", "safe.safetensors", "unsafe.pt")
    loaded = _loaded(*arguments)
    assert "modelhub.cli" in loaded
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & HEAVY
    assert not roots & HEAVY_STDLIB
    foreign = {name for name in loaded if not name.startswith("modelhub")}
    assert len(foreign) < LIMIT, sorted(foreign)


def test_help_loads_no_command() -> None:
    """``modelhub --help`` knows every command's line of help without loading the command."""
    assert not [name for name in _loaded("--help") if name.startswith("modelhub.commands.")]


def test_importing_the_package_loads_nothing() -> None:
    """``import modelhub`` loads none of its rooms."""
    loaded = _modules("import sys, modelhub") - _modules("import sys")
    assert {name for name in loaded if name.startswith("modelhub")} == {"modelhub"}
