"""kill -9 at any statement or commit of a sync, of hashing, of an import or of a migration, in a file or on a server:
nothing is lost, and the next run completes.

``make kill`` runs a hundred rounds of each; a few are run every time. The moments are random, and a failing round says
which it was.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from modelhub.db import Catalog, Query
from modelhub.hashing import hash_files
from modelhub.syncing import add_library, sync
from tests.conftest import Files
from tests.db.test_migration import check, make_first_schema
from tests.postgresql import Server
from tests.syncing.files import lora, put

FILES = 8
NEVER = 1 << 30


def child(work: Callable[[str], None], url: str, moment: int) -> tuple[bool, int]:
    """Run *work* in a process that is killed before its statement or commit number *moment*: whether it was, and how
    many there were if not."""
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            done = 0

            def count(*_: object) -> None:
                nonlocal done
                done += 1
                if done > moment:
                    os.kill(os.getpid(), signal.SIGKILL)

            event.listen(Engine, "before_cursor_execute", count)
            event.listen(Engine, "commit", count)
            work(url)
            os.write(theirs, str(done).encode())
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(process, 0)
    was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert was_killed or said, "the work failed by itself"
    return was_killed, int(said or 0)


class Work:
    """Something that can be killed: a catalog as it is before, what is done to it, and what must be true after."""

    def __init__(self, folder: Path, catalogs: Files | Server) -> None:
        self.folder = folder
        self.catalogs = catalogs
        self.before = catalogs.empty()
        self.url = ""
        self.prepare(self.before)
        _, self.moments = self.start(NEVER)
        self.finish()

    def start(self, moment: int) -> tuple[bool, int]:
        if self.url:
            self.catalogs.drop(self.url)
        self.url = self.catalogs.copy(self.before)
        return child(self.run, self.url, moment)

    def finish(self) -> None:
        with Catalog.open(self.url) as catalog:
            self.kept(catalog)
        self.run(self.url)
        with Catalog.open(self.url) as catalog:
            self.kept(catalog)
            self.completed(catalog)
            assert catalog.upkeep.faults() == []

    def round(self, moment: int) -> None:
        was_killed, _ = self.start(moment)
        assert was_killed
        try:
            self.finish()
        except Exception as error:
            raise AssertionError(f"killed before statement {moment} of {self.moments}") from error

    def prepare(self, url: str) -> None:
        """Make the catalog as it is before."""
        raise NotImplementedError

    def run(self, url: str) -> None:
        """What may be killed."""
        raise NotImplementedError

    def kept(self, catalog: Catalog) -> None:
        """What must be true at every moment."""
        entries = catalog.entries(Query(gone=True))
        assert {tag for entry in entries for tag in entry.tags} == {f"tag {number}" for number in range(FILES)}
        notes = {line for entry in entries for line in catalog.show(f"#{entry.id}").notes.split("\n\n") if line}
        assert notes == {f"note {number}" for number in range(FILES)}

    def completed(self, catalog: Catalog) -> None:
        """What must be true when it has come to its end."""
        raise NotImplementedError

    def library(self, url: str, number_of: Callable[[int], int]) -> Path:
        """A library of files, each with a tag and a note."""
        models = self.folder / "models"
        for number in range(FILES):
            put(models / f"m{number}.safetensors", lora(number_of(number)), mtime=10**18 + number)
        with Catalog.open(url) as catalog:
            add_library(catalog, str(models))
            sync(catalog, processes=1)
            for number in range(FILES):
                catalog.tag(f"m{number}.safetensors", [f"tag {number}"])
                catalog.note(f"m{number}.safetensors", f"note {number}")
        return models


class Syncing(Work):
    """Files moved, swapped, copied elsewhere, replaced, deleted and added since the last sync."""

    def prepare(self, url: str) -> None:
        models = self.library(url, lambda number: number)
        (models / "new").mkdir()
        self.tags = {}
        for number in range(0, FILES, 4):
            paths = [models / f"m{number + each}.safetensors" for each in range(4)]
            os.rename(paths[0], models / "new" / paths[0].name)
            shutil.copy2(paths[1], models / "new" / paths[1].name)
            paths[1].unlink()
            put(paths[2], lora(1000 + number))
            paths[3].unlink()
            put(models / f"added{number}.safetensors", lora(2000 + number))
            self.tags |= {str(models / "new" / paths[each].name): (f"tag {number + each}",) for each in (0, 1)}
            self.tags[str(paths[2])] = (f"tag {number + 2}",)  # of the artifact that both are versions of
            self.tags[str(models / f"added{number}.safetensors")] = ()

    def run(self, url: str) -> None:
        with Catalog.open(url) as catalog:
            sync(catalog, processes=1)

    def completed(self, catalog: Catalog) -> None:
        assert {entry.path: entry.tags for entry in catalog.entries()} == self.tags
        assert sync(catalog, processes=1).counts == {"unchanged": len(self.tags)}


class Hashing(Work):
    """Files of which every second is a copy of the one before: hashing them makes two records one."""

    def prepare(self, url: str) -> None:
        self.library(url, lambda number: number // 2)

    def run(self, url: str) -> None:
        with Catalog.open(url) as catalog:
            for hashed in hash_files(catalog):
                assert hashed.error is None

    def completed(self, catalog: Catalog) -> None:
        entries = catalog.entries()
        assert len(entries) == len({entry.digest for entry in entries}) == FILES // 2
        assert {len(catalog.show(f"#{entry.id}").digests) > 1 for entry in entries} == {True}
        assert catalog.digests.to_compute(None) == []


class Migrating(Work):
    """A catalog of the first schema."""

    def prepare(self, url: str) -> None:
        make_first_schema(url)

    def run(self, url: str) -> None:
        Catalog.open(url).close()

    def kept(self, catalog: Catalog) -> None:
        check(catalog)

    def completed(self, catalog: Catalog) -> None:
        if isinstance(self.catalogs, Files):
            assert Path(f"{self.url}.0001.backup").is_file()


class Importing(Work):
    """An export that knows half of the library's files by other tags, and as many that are nowhere here."""

    def prepare(self, url: str) -> None:
        models = self.library(url, lambda number: number)
        other = str(self.folder / "other.db")
        with Catalog.open(other) as catalog:
            for number in range(FILES // 2):
                put(self.folder / "elsewhere" / f"e{number}.safetensors", lora(5000 + number))
            for path in (models, self.folder / "elsewhere"):
                add_library(catalog, str(path))
            sync(catalog, processes=1)
            for number in range(FILES // 2):
                catalog.tag(f"m{number}.safetensors", [f"tag {number}"])
                catalog.tag(f"e{number}.safetensors", [f"tag {number}"])
            catalog.upkeep.export(str(self.folder / "export.jsonl"), "tests")

    def run(self, url: str) -> None:
        with Catalog.open(url) as catalog:
            catalog.upkeep.take_in(str(self.folder / "export.jsonl"))

    def completed(self, catalog: Catalog) -> None:
        tags = {entry.name: entry.tags for entry in catalog.entries()}
        assert tags == {
            **{f"m{number}": (f"tag {number}",) for number in range(FILES)},
            **{f"e{number}": (f"tag {number}",) for number in range(FILES // 2)},
        }


WORKS = (Syncing, Hashing, Migrating, Importing)


@pytest.fixture
def work(
    request: pytest.FixtureRequest, tmp_path: Path, catalogs: Files | Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Work]:
    for name in ("BATCH", "NEW"):
        monkeypatch.setattr(sys.modules["modelhub.syncing.sync"], name, 3)
    made: Work = request.param(tmp_path, catalogs)
    yield made
    for url in (made.url, made.before):
        catalogs.drop(url)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("work", WORKS, indirect=True)
def test_killed(work: Work) -> None:
    """Killed at a few moments, the first and the last among them, nothing is lost, and the next run completes."""
    first = (0,) if isinstance(work.catalogs, Files) else ()
    for moment in (*first, work.moments - 1, random.randrange(work.moments)):
        work.round(moment)


@pytest.mark.kill
@pytest.mark.parametrize("work", WORKS, indirect=True)
def test_killed_again_and_again(work: Work) -> None:
    """A hundred kills of each, spread over all of its statements."""
    for number in range(100):
        work.round(number * work.moments // 100)
