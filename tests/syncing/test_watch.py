"""Watching: what changes is synced once it has settled, and the watch can be ended at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelhub.db import Catalog
from modelhub.errors import CatalogLocked
from modelhub.syncing import add_library, watch
from modelhub.syncing.watching import PATIENCE, SETTLED
from tests.cli.run import ROOT, modelhub
from tests.syncing.files import lora, put


class Clock:
    """Time that passes when somebody waits; at each wait, the next thing is done."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self._events = iter(events)
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        next(self._events)()


def nothing() -> None:
    pass


def end() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def models(tmp_path: Path, catalog: Catalog) -> Path:
    put(tmp_path / "models" / "a.safetensors", lora(1))
    add_library(catalog, str(tmp_path / "models"))
    return tmp_path / "models"


def counts(catalog: Catalog, clock: Clock) -> Iterator[dict[str, int]]:
    """What each sync counts, until the clock ends it."""
    try:
        for report in watch(catalog, processes=1, every=10, sleep=clock.sleep):
            yield {kind: number for kind, number in report.counts.items() if number}
    except KeyboardInterrupt:
        return


def test_synced_once_settled(catalog: Catalog, models: Path) -> None:
    """A file that is still being written is synced when it is whole, and what does not change is not synced again."""
    whole = lora(2)
    path = models / "b.safetensors"
    clock = Clock(
        nothing,
        lambda: path.write_bytes(whole[:100]),
        lambda: path.write_bytes(whole[:2000]),
        lambda: path.write_bytes(whole),
        nothing,
        nothing,
        lambda: os.unlink(path),
        nothing,
        end,
    )
    assert list(counts(catalog, clock)) == [{"added": 1}, {"unchanged": 1, "added": 1}, {"unchanged": 1, "vanished": 1}]
    assert clock.waits == [10, 10, SETTLED, SETTLED, SETTLED, 10, 10, SETTLED, 10]
    assert catalog.show("a").problem is None


def test_what_never_settles(catalog: Catalog, models: Path) -> None:
    """What goes on changing is synced as it is when patience is at its end."""
    path = models / "b.safetensors"
    sizes = iter(range(1000, 9000, 100))
    steps = round(PATIENCE / SETTLED)
    clock = Clock(*[lambda: path.write_bytes(lora(2)[: next(sizes)])] * (steps + 1), end)
    assert list(counts(catalog, clock)) == [{"added": 1}, {"unchanged": 1, "added": 1}]


def test_changed_while_it_synced(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes during a sync is found by the next look, not lost between the two."""
    import modelhub.syncing.watching as room

    real = room.sync

    def slow(*args: object, **kwargs: object) -> object:
        report = real(*args, **kwargs)  # type: ignore[arg-type]
        put(models / "late.safetensors", lora(3))
        monkeypatch.setattr(room, "sync", real)
        return report

    monkeypatch.setattr(room, "sync", slow)
    assert list(counts(catalog, Clock(nothing, nothing, end))) == [{"added": 1}, {"unchanged": 1, "added": 1}]


def test_unplugged_and_back(catalog: Catalog, models: Path) -> None:
    """A library that goes and comes back is followed."""
    away = models.with_name("away")
    clock = Clock(lambda: models.rename(away), nothing, lambda: away.rename(models), nothing, end)
    assert list(counts(catalog, clock)) == [{"added": 1}, {"offline": 1}, {"returned": 1}]


def test_locked_meanwhile(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that another process keeps for too long is tried again at the next look."""
    import modelhub.syncing.watching as room

    real = room.sync

    def locked(*_: object, **__: object) -> object:
        monkeypatch.setattr(room, "sync", real)
        raise CatalogLocked("held")

    def change() -> None:
        put(models / "b.safetensors", lora(2))
        monkeypatch.setattr(room, "sync", locked)

    clock = Clock(change, nothing, nothing, nothing, end)
    assert list(counts(catalog, clock)) == [{"added": 1}, {"unchanged": 1, "added": 1}]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended(url: str, catalog: Catalog, models: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end the command at once, without a traceback; what was synced is in the catalog."""
    command = [sys.executable, "-m", "modelhub", "library", "sync", "--watch", "--every", "0.1", "--format", "jsonl"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--catalog", url], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert '"added"' in process.stdout.readline()
        put(models / "b.safetensors", lora(2))
        assert "b.safetensors" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) == code
        assert "Traceback" not in process.stderr.read()
    assert [entry.name for entry in catalog.entries()] == ["a", "b"]


def test_no_document_without_an_end(url: str, catalog: Catalog) -> None:
    """One JSON document cannot be written by what does not end."""
    assert modelhub("library", "sync", "--watch", "--format", "json", "--catalog", url).code == 2
