"""Organising that is killed at any moment loses no file, and the next run completes it.

``make kill`` kills before every single change of the disk, renaming and copying, and a hundred times at random; a
handful of those run every time.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelhub.db import Batch, Catalog, Change
from modelhub.organising import moving, organise, plan_organising, recover, run
from modelhub.organising.journal import NAME
from modelhub.syncing import add_library, sync
from tests.conftest import Files
from tests.postgresql import Server
from tests.syncing.files import lora, put, vae

CHANGES = frozenset({"os.link", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.utime", "os.chmod", "catalog"})
"""The audit events of what changes the disk (docs.python.org, "Audit events table"), and one of ours."""

FILES = {
    **{f"x/m{number}.safetensors": lora(number) for number in range(5)},
    "x/m0.png": b"preview 0",
    "x/m0.civitai.info": b"{}",
    "x/m3.png": b"preview 3",
    "y/v.safetensors": vae(1),
    "y/v.txt": b"of v",
    "lora/sd-1/chain.safetensors": vae(2),
    "lora/sd-1/chain.png": b"preview of a VAE",
    "m/chain.safetensors": lora(7),
    "m/chain.png": b"preview of a LoRA",
}
"""The last two go where those before them are, right after them."""


class Library:
    def __init__(self, folder: Path, catalogs: Files | Server, *, copying: bool) -> None:
        self.copying = copying
        self.catalogs = catalogs
        self.url, self.root = "", folder / "lib"

    def lay_out(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        if self.url:
            self.catalogs.drop(self.url)
        self.url = self.catalogs.catalog()
        for name, data in FILES.items():
            put(self.root / name, data)
        with Catalog.open(self.url) as catalog:
            add_library(catalog, str(self.root))
            sync(catalog, processes=1)
            for number in range(5):
                catalog.tag(str(self.root / f"x/m{number}.safetensors"), [f"tag {number}"])
            catalog.tag(str(self.root / "lora/sd-1/chain.safetensors"), ["chain 1"])
            catalog.tag(str(self.root / "m/chain.safetensors"), ["chain 2"])

    def organise(self) -> None:
        with Catalog.open(self.url) as catalog, pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "TOGETHER", 3)
            patch.setattr(catalog.libraries, "write", audited(catalog.libraries.write))
            if self.copying:
                patch.setattr(moving, "rename_to_free_name", other_disk)
            (root,) = catalog.libraries.all()
            recover(catalog, root)
            plan = plan_organising(root, catalog.libraries.holdings(root))
            for _ in organise(catalog, plan):
                pass

    def killed(self, moment: int | None = None, delay: float | None = None, changes: frozenset[str] = CHANGES) -> bool:
        """Organise in a process that is killed before its change number *moment*, counting *changes*, or after *delay*
        seconds; says whether it was."""
        child = os.fork()
        if child == 0:
            try:
                if moment is not None:
                    countdown = [moment]

                    def hook(event: str, _: object) -> None:
                        if event in changes:
                            countdown[0] -= 1
                            if countdown[0] < 0:
                                os.kill(os.getpid(), signal.SIGKILL)

                    sys.addaudithook(hook)
                self.organise()
                os._exit(0)
            finally:
                os._exit(1)
        if delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    def listing(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and path.name != NAME
        }

    def check(self, expected: dict[str, bytes]) -> None:
        """Every byte is there after the kill, and after one more run everything is where it belongs, and known."""
        left = self.listing()
        assert set(FILES.values()) <= set(left.values())
        for name, data in left.items():
            assert name.endswith(".part") or data in FILES.values()
        self.organise()
        assert self.listing() == expected
        assert not (self.root / NAME).exists()
        with Catalog.open(self.url) as catalog:
            live = {entry.path: entry.tags for entry in catalog.entries()}
            assert live[str(self.root / "vae/unknown/chain.safetensors")] == ("chain 1",)
            assert live[str(self.root / "lora/sd-1/chain.safetensors")] == ("chain 2",)
            for number in range(5):
                assert live[str(self.root / f"lora/sd-1/m{number}.safetensors")] == (f"tag {number}",)
            assert {k: n for k, n in sync(catalog, processes=1).counts.items() if n} == {"unchanged": 8}


def audited(write: Callable[[Batch], list[Change]]) -> Callable[[Batch], list[Change]]:
    def work(batch: Batch) -> list[Change]:
        sys.audit("catalog")
        return write(batch)

    return work


def other_disk(source: str, target: str) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.fixture(params=[False, True], ids=["renaming", "copying"])
def library(request: pytest.FixtureRequest, tmp_path: Path, catalogs: Files | Server) -> Iterator[Library]:
    library = Library(tmp_path / "here", catalogs, copying=request.param)
    yield library
    catalogs.drop(library.url)


def whole_run(library: Library) -> dict[str, bytes]:
    library.lay_out()
    library.organise()
    expected = library.listing()
    assert sorted(expected.values()) == sorted(FILES.values())
    assert {"lora/sd-1/m0.png", "vae/unknown/v.txt", "vae/unknown/chain.png"} <= expected.keys()
    return expected


@pytest.mark.kill
def test_killed_before_every_change(library: Library) -> None:
    """Whichever change of the disk comes no more, nothing is lost and the next run completes."""
    expected = whole_run(library)
    moment = 0
    while True:
        library.lay_out()
        if not library.killed(moment):
            break
        library.check(expected)
        moment += 1
    assert moment > 20
    assert library.listing() == expected


@pytest.mark.kill
def test_killed_at_random(library: Library) -> None:
    """A hundred kills at random moments."""
    expected = whole_run(library)
    library.lay_out()
    begin = time.monotonic()
    assert not library.killed(10**9)
    longest = time.monotonic() - begin
    for _ in range(50):
        library.lay_out()
        library.killed(delay=random.uniform(0, longest))
        library.check(expected)


def test_killed(library: Library) -> None:
    """A handful of those moments."""
    expected = whole_run(library)
    for moment in random.sample(range(12), 3):
        library.lay_out()
        assert library.killed(moment)
        library.check(expected)


@pytest.mark.parametrize("change", ["catalog", "os.truncate"])
def test_killed_around_the_catalog(library: Library, change: str) -> None:
    """Files that have taken the places of others are known from those, whether the catalog has followed or not."""
    expected = whole_run(library)
    library.lay_out()
    assert library.killed(0, changes=frozenset({change}))
    library.check(expected)


def test_killed_twice(library: Library) -> None:
    """A run that completes another one may be killed as well."""
    expected = whole_run(library)
    library.lay_out()
    assert library.killed(6)
    library.killed(1)
    library.check(expected)
