"""The benchmark of verdicts over the network counts what the servers see."""

from __future__ import annotations

from pathlib import Path

from benchmarks.hub import Case, count
from tests.hub.files import call_of, sparse_checkpoint
from tests.hub.server import Hub


def test_counts_are_those_of_the_servers(hub: Hub, tmp_path: Path) -> None:
    """Every request and byte of a case counts, those of the listing too, and its verdicts are told."""
    sparse_checkpoint(tmp_path / "a.ckpt", 100, 200_000)
    sparse_checkpoint(tmp_path / "b.ckpt", 100, 200_000, call_of("os", "system", "echo harmless"))
    counted = count(hub, Case("two", "bench/two", {name: str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")}))
    assert (counted.files, counted.requests, counted.sent) == (2, len(hub.seen), hub.sent)
    assert counted.verdicts == {"safe", "unsafe"}
    assert counted.whole == sum(path.stat().st_size for path in tmp_path.glob("*.ckpt"))
    assert counted.sent < counted.whole / 100
