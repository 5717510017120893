"""Output to a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.run import ROOT

pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
Make = Callable[..., None]


def _in_terminal(*arguments: str, **env: str) -> tuple[int, str]:
    """Run modelhub with a terminal as standard output and error; its exit code and all it wrote."""
    ours, theirs = os.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "modelhub", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "60"} | env,
    )
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 1 << 16):
            written += block
    except OSError:  # Linux's way to say that the other end was closed
        pass
    os.close(ours)
    return running.wait(60), written.decode()


def test_colours_and_no_color(make: Make) -> None:
    """A verdict is coloured on a terminal, and not with NO_COLOR."""
    make("unsafe.pt")
    code, coloured = _in_terminal("scan", "unsafe.pt")
    assert code == 1
    assert "\x1b[1;31mUNSAFE" in coloured
    assert "\x1b[1;31m" not in _in_terminal("scan", "unsafe.pt", NO_COLOR="1")[1]
    assert "\x1b" not in _in_terminal("scan", "unsafe.pt", TERM="dumb")[1]


def test_names_are_neither_control_characters_nor_markup(make: Make) -> None:
    """A file name is shown as it is written: its brackets are no markup and its escape is not obeyed."""
    make("safe.pt")
    name = "[red]x\x1b[2J:smile:.pt"
    os.rename("safe.pt", name)
    written = _in_terminal("scan", name)[1]
    assert r"[red]x\x1b[2J:smile:.pt" in written
    assert "\x1b[2J" not in written


def test_long_paths_are_never_cut(make: Make) -> None:
    """On a narrow terminal a path can still be copied whole."""
    make("safe.pt")
    name = "a-very-long-name-" * 10 + ".pt"
    os.rename("safe.pt", name)
    assert name in _in_terminal("scan", name)[1]


def test_a_bar_of_bytes(make: Make) -> None:
    """Reading a file for its digest shows a bar with its name, which -q leaves away and which never reaches a file."""
    make("safe.pt")
    code, written = _in_terminal("scan", "--digest", "safe.pt")
    assert code == 0
    assert "━" in written
    assert "safe.pt" in written
    assert "━" not in _in_terminal("scan", "--digest", "-q", "safe.pt")[1]
    _in_terminal("scan", "--digest", "-o", "report", "safe.pt")
    with open("report", encoding="utf-8") as file:
        assert file.read().startswith("SAFE        safe.pt")
