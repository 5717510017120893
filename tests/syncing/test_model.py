"""Whatever is done to a library between syncs, the catalog comes to equal the truth, and nothing written is lost.

A few courses are tried every time, each time others; ``make test-big`` tries many."""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from modelhub.db import Catalog, Query
from modelhub.syncing import add_library, sync
from tests.syncing.files import lora, put

NAMES = [f"{folder}/{name}.safetensors" for folder in ("a", "b/c") for name in ("x", "y")]
PICK = st.integers(0, 100)


def time_of(number: int) -> int:
    """When the bytes *number* were made, in nanoseconds."""
    return 10**18 + number % 2 * 10**9


class Library(RuleBasedStateMachine):
    """A library, what its files hold, and the tag that each of the bytes was given when they were first seen.

    Every file's bytes are like no other's, but all are of one size and of one of two times, as those of an unpacked
    archive are: only inodes and headers tell them apart.
    """

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="modelhub-sync-"))
        self.root = self.folder / "models"
        self.root.mkdir()
        self.catalog = Catalog.open(str(self.folder / "c.db"))
        add_library(self.catalog, str(self.root))
        self.numbers = count()
        self.files: dict[str, int] = {}
        self.deleted: dict[int, str] = {}
        self.tagged: set[int] = set()
        self.history: dict[str, set[int]] = {}
        self.plugged = True
        self.synced = True

    def teardown(self) -> None:
        self.catalog.close()
        shutil.rmtree(self.folder)

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, number: int) -> None:
        """Have the bytes *number* at *name* as a new file, as a download or a restored copy has them."""
        path = self.path(name)
        if path.exists():
            self.remove(name)
        put(path, lora(number), time_of(number))
        self.lay(name, number)

    def remove(self, name: str) -> None:
        """Remove the file at *name*; its inode is not given to another."""
        os.rename(self.path(name), self.folder / f"removed {next(self.numbers)}")

    def lay(self, name: str, number: int) -> None:
        self.files[name] = number
        self.history.setdefault(name, set()).add(number)
        self.synced = False

    @rule(name=st.sampled_from(NAMES))
    def add_or_replace(self, name: str) -> None:
        if self.plugged:
            self.lose(name)
            self.write(name, next(self.numbers))

    def lose(self, name: str) -> None:
        if name in self.files:
            self.deleted[self.files.pop(name)] = name

    @rule(name=st.sampled_from(NAMES))
    def overwrite_in_place(self, name: str) -> None:
        if self.plugged and name in self.files:
            number = next(n for n in self.numbers if time_of(n) != time_of(self.files[name]))
            self.lose(name)
            put(self.path(name), lora(number), time_of(number))
            self.lay(name, number)

    @rule(source=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def move(self, source: str, to: str) -> None:
        if self.plugged and source in self.files and source != to:
            self.lose(to)
            if self.path(to).exists():
                self.remove(to)
            self.path(to).parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.path(source), self.path(to))
            self.lay(to, self.files.pop(source))

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        if self.plugged and name in self.files:
            self.remove(name)
            self.lose(name)
            self.synced = False

    @rule(pick=PICK, to=st.sampled_from(NAMES), at_once=st.booleans())
    def one_goes_and_another_comes(self, pick: int, to: str, at_once: bool) -> None:
        """Where a file goes and another of its size and time comes, they are two all the same."""
        if self.plugged and self.files and to not in self.files:
            name = sorted(self.files)[pick % len(self.files)]
            number = next(n for n in self.numbers if time_of(n) == time_of(self.files[name]))
            self.remove(name)
            self.lose(name)
            if not at_once:
                self.sync()
            self.write(to, number)
            self.sync()

    @rule(pick=PICK, folder=st.sampled_from(["a", "b/c"]))
    def bring_back(self, pick: int, folder: str) -> None:
        """Bytes that were deleted, and seen to be, return under their own name, be others there or not."""
        if self.plugged and self.deleted:
            if not self.synced:
                self.sync()
            number = sorted(self.deleted)[pick % len(self.deleted)]
            name = f"{folder}/{os.path.basename(self.deleted.pop(number))}"
            self.lose(name)
            self.write(name, number)
            self.sync()

    @rule(pick=PICK, at_once=st.booleans())
    def copy_elsewhere(self, pick: int, at_once: bool) -> None:
        """A file goes as one that is copied to another disk does: with a new inode, seen to be missing or not."""
        if not self.files:
            return
        name = sorted(self.files)[pick % len(self.files)]
        to = f"{'b/c' if name.startswith('a/') else 'a'}/{os.path.basename(name)}"
        if self.plugged and to not in self.files:
            self.sync()
            number = self.files.pop(name)
            if at_once:
                self.write(to, number)
                self.remove(name)
            else:
                self.remove(name)
                self.sync()
                self.write(to, number)
            self.sync()

    @rule()
    def unplug(self) -> None:
        if self.plugged and self.synced:
            os.rename(self.root, self.folder / "away")
            self.plugged = False
            self.synced = False

    @rule()
    def plug_in(self) -> None:
        if not self.plugged:
            os.rename(self.folder / "away", self.root)
            self.plugged = True
            self.synced = False

    @rule()
    def sync(self) -> None:
        report = sync(self.catalog, processes=1)
        assert not report.unread
        assert not report.unclear
        self.synced = True
        if not self.plugged:
            return
        for name, number in self.files.items():
            if number not in self.tagged:
                self.catalog.tag(str(self.path(name)), [f"bytes {number}"])
                self.catalog.note(str(self.path(name)), f"note {number}", append=True)
                self.tagged.add(number)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every tag and note ever written is on one artifact, and the record of those bytes is of it; an artifact is
        of bytes that have followed one another under one name."""
        artifacts: dict[int, tuple[str, ...]] = {}
        bytes_of: dict[int, set[int]] = {}
        for entry in self.catalog.entries(Query(gone=True)):
            detail = self.catalog.show(f"#{entry.id}")
            number = int(detail.metadata["ss_output_name"].removeprefix("model "))
            bytes_of.setdefault(entry.artifact, set()).add(number)
            assert artifacts.setdefault(entry.artifact, entry.tags) == entry.tags
            assert number not in self.tagged or f"bytes {number}" in entry.tags
            told = {tag.removeprefix("bytes ") for tag in entry.tags}
            assert {note.removeprefix("note ") for note in detail.notes.splitlines()} == told
        tags = [tag for tags in artifacts.values() for tag in tags]
        assert sorted(tags) == sorted(f"bytes {number}" for number in self.tagged)
        for numbers in bytes_of.values():
            assert self.have_followed(numbers)

    def have_followed(self, numbers: set[int]) -> bool:
        """Whether each of *numbers* is led to from each other by names that held the one and the other."""
        reached = {min(numbers)}
        while more := {n for held in self.history.values() if held & reached for n in held} - reached:
            reached |= more
        return numbers <= reached

    @invariant()
    def the_catalog_equals_the_truth(self) -> None:
        """After a sync the live places are the files that are there, each with its own record; unplugged, none."""
        if not self.synced:
            return
        entries = self.catalog.entries()
        found = {entry.path: self.catalog.show(f"#{entry.id}").metadata["ss_output_name"] for entry in entries}
        assert found == {str(self.path(name)): f"model {number:09}" for name, number in self.files.items()}
        assert {entry.state for entry in entries} <= {"live" if self.plugged else "offline"}


@pytest.mark.parametrize(
    ("examples", "steps"), [(25, 18), pytest.param(300, 24, marks=pytest.mark.big)], ids=["a few", "many"]
)
def test_any_course(examples: int, steps: int) -> None:
    """What the machine says holds, whatever is done in which order."""
    run_state_machine_as_test(Library, settings=settings(max_examples=examples, stateful_step_count=steps))
