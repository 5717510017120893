"""Readings come from other processes as they were made there, whatever becomes of those."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhub.container.safetensors import encode_header
from modelhub.db import Reading, Seen
from modelhub.syncing import readers
from tests.syncing.files import lora, put


@pytest.fixture
def library(tmp_path: Path) -> list[Seen]:
    """A hundred files: one with odd metadata, one that is no model at all, one that is not there any more."""
    seen = []
    for number in range(100):
        path = tmp_path / f"{number}.safetensors"
        put(path, lora(number))
        found = os.stat(path)
        seen.append(Seen(str(path), found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino, 1))
    put(tmp_path / "5.safetensors", encode_header([], {'a "quoted" \u00e9': "\0 \U0001f600"}))
    put(tmp_path / "6.safetensors", b"<html>")
    os.unlink(seen[7].path)
    return seen


def told(answers: Iterator[tuple[Seen, Reading | str]]) -> dict[str, Reading | str]:
    """The answers by path, without the layouts, which each process gives once."""
    return {
        file.path: said if isinstance(said, str) else said._replace(layout=None, claims=[list(c) for c in said.claims])
        for file, said in answers
    }


def test_they_say_what_one_process_says(library: list[Seen]) -> None:
    """Several processes give the readings that one gives, and the reason where a file cannot be read."""
    several = told(readers.read_all(library, 3))
    assert several == told(readers.read_all(library, 1))
    assert [path for path, said in several.items() if isinstance(said, str)] == [library[7].path]


def test_layouts_come_along(library: list[Seen]) -> None:
    """The tensors that the files have in common are told with the first of them, as they were packed."""
    alone = {said.layout for _, said in readers.read_all(library, 1) if isinstance(said, Reading)}
    assert {said.layout for _, said in readers.read_all(library, 2) if isinstance(said, Reading)} == alone
    assert len(alone) > 2


def test_a_process_that_dies_takes_one_file_with_it(library: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that a process was at when it died is told of, and all others are read."""
    monkeypatch.setattr(readers, "_AHEAD", 2)
    answers = readers.read_all(library, 2)
    first = dict([next(answers)])
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    said = {file.path: each for file, each in [*first.items(), *answers]}
    assert len(said) == 100
    missed = {path: each for path, each in said.items() if isinstance(each, str)}
    assert len(missed) == 2 and library[7].path in missed
    assert "the process that read it ended unexpectedly" in missed.values()


def test_it_may_be_left_off(library: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens no longer ends the processes and the threads, however much is still to be read or told."""
    monkeypatch.setattr(readers, "_AHEAD", 2)
    before = threading.active_count()
    answers = readers.read_all(library, 2)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert not multiprocessing.active_children()
