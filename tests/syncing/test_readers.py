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
from modelhub.syncing.reading import Reader
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
    """The file that a process dies of is told of, and all others are read."""
    read = Reader.read

    def reads(reader: Reader, seen: Seen) -> Reading:
        if seen.path == library[40].path:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(reader, seen)

    monkeypatch.setattr(Reader, "read", reads)
    monkeypatch.setattr("threading.active_count", lambda: 1)  # a process that is spawned would read it
    said = dict(readers.read_all(library, 2))
    assert len(said) == 100
    missed = {file.path: each for file, each in said.items() if isinstance(each, str)}
    assert missed.keys() == {library[7].path, library[40].path}
    assert missed[library[40].path] == "the process that read it ended unexpectedly"


def test_a_process_that_is_killed_takes_none_with_it(library: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process had been given when something else ended it is read by another one."""
    monkeypatch.setattr(readers, "_AHEAD", 1)
    monkeypatch.setattr(readers, "_TOGETHER", 4)
    answers = readers.read_all(library, 2)
    first = dict([next(answers)])
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    said = {file.path: each for file, each in [*first.items(), *answers]}
    assert len(said) == 100
    assert [path for path, each in said.items() if isinstance(each, str)] == [library[7].path]


def test_much_is_told_in_several_messages(library: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings that would make a message too long are told before all of its files are read."""
    alone = told(readers.read_all(library, 1))
    monkeypatch.setattr(readers, "_LARGEST", 1000)
    assert told(readers.read_all(library, 2)) == alone


def test_it_may_be_left_off(library: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens no longer ends the processes and the threads, however much is still to be read or told."""
    monkeypatch.setattr(readers, "_AHEAD", 2)
    before = threading.active_count()
    answers = readers.read_all(library, 2)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert not multiprocessing.active_children()
