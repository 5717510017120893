"""-o FILE."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.run import modelhub, process

Make = Callable[..., None]


@pytest.mark.parametrize("format", ["human", "json", "jsonl"])
def test_the_file_has_what_standard_output_would(make: Make, format: str) -> None:
    """-o FILE takes the whole answer, nothing of it goes to standard output, and the exit code is the same."""
    make("safe.pt", "unsafe.pt")
    names = ("safe.pt", "unsafe.pt")
    shown = modelhub("scan", "--format", format, *names)
    ran = modelhub("scan", "--format", format, "-o", "report", *names)
    assert (ran.code, ran.out) == (1, "")
    assert Path("report").read_text() == shown.out
    assert sorted(os.listdir()) == ["report", "safe.pt", "unsafe.pt"]
    assert modelhub("scan", "--format", format, "-o", "-", *names).out == shown.out


def test_an_older_answer_stays_until_the_new_one_is_complete(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails on its way leaves the file as it was, and nothing beside it."""
    make("safe.pt")
    Path("report").write_text("old")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modelhub.verbs.scan", interrupted)
    assert modelhub("scan", "-o", "report", "safe.pt").code == 130
    assert Path("report").read_text() == "old"
    assert sorted(os.listdir()) == ["report", "safe.pt"]


@pytest.mark.parametrize("target", ["no/such/folder/report", ".", ""])
def test_a_file_that_cannot_be_written(make: Make, target: str) -> None:
    """An -o that cannot be written is one sentence and 2."""
    make("safe.pt")
    ran = modelhub("scan", "-o", target, "safe.pt")
    assert ran.code == 2
    assert "cannot be written there" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_links_and_devices_stay_what_they_are(make: Make) -> None:
    """-o through a symbolic link replaces the file behind it; a device is written to, never replaced."""
    make("safe.pt")
    os.symlink("real", "link")
    modelhub("scan", "--format", "json", "-o", "link", "safe.pt")
    assert os.path.islink("link")
    assert json.loads(Path("real").read_text())["complete"] is True
    assert modelhub("scan", "-o", os.devnull, "safe.pt").code == 0
    assert not os.path.isfile(os.devnull)
    done = process("scan", "-q", "--format", "json", "-o", "/dev/stdout", "safe.pt")
    assert json.loads(done.stdout)["complete"] is True


def test_a_model_is_never_replaced_by_an_answer(make: Make) -> None:
    """A forgotten name, as in ``-o *.ckpt``, does not cost a model."""
    make("safe.pt", "unsafe.pt")
    before = Path("safe.pt").read_bytes()
    ran = modelhub("scan", "-o", "safe.pt", "unsafe.pt")
    assert ran.code == 2
    assert "hint: give -o another name" in ran.err
    assert Path("safe.pt").read_bytes() == before
