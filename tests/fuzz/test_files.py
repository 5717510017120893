"""Broken files of every kind: the fuzzer, and what it finds."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from fuzz.campaign import Found, run_files, wrong_with
from fuzz.mutations import mutated
from fuzz.originals import originals
from fuzz.shrink import shrunk
from fuzz.workers import Worker
from modelhub.container import open_container
from modelhub.scan import scan
from modelhub.source import BytesSource


def test_no_broken_file_crashes_hangs_or_takes_much_memory() -> None:
    """Bit flips, splices and cuts of real files: nothing is raised, none takes 5 s or 500 MB."""
    summary = run_files("tests", range(3000))
    assert [(each.rule, each.what) for each in summary.found] == []
    assert summary.count == 3000
    assert {"safe", "unknown", "suspicious", "unsafe"} <= set(summary.verdicts)


def test_the_originals_are_what_they_are_called() -> None:
    """Unbroken, the files are judged as their names promise, so that breaking them starts from real ones."""
    verdicts = {name: scan(open_container(BytesSource(name, data))).verdict.label for name, data in originals().items()}
    for name in ("zip.ckpt", "legacy.ckpt", "model.safetensors", "frames.pkl", "text.pkl", "lora.pt", "embedding.pt"):
        assert verdicts[name] == "safe", name
    for name in ("hostile.pt", "hostile-legacy.pt", "object.pkl"):
        assert verdicts[name] == "unsafe", name


def test_every_fault_is_found() -> None:
    """Exceptions, memory, death, slowness and hanging of an examiner are each told, with a file that shows it."""
    with Worker("tests.fuzz.bad_examiner", timeout=60) as worker:
        files = ("zip.ckpt", "gguf.gguf", "array.npy", "objects.npy", "page.ckpt", "zip.ckpt")
        answers = worker.ask([{"name": name, "data": "x"} for name in files])
        assert [wrong_with(each) for each in answers] == [None, "exception", "memory", "slow", "died", None]
        worker.timeout = 0.5
        assert [wrong_with(each) for each in worker.ask([{"name": "empty.pt", "data": ""}])] == ["hang"]


def test_a_fault_becomes_a_minimal_reproducer() -> None:
    """A run names each fault and gives the smallest file that shows it."""
    numbers = [n for n in range(100) if mutated(Random(f"faults:{n}"), originals())[0] in ("gguf.gguf", "old.tar")]
    summary = run_files("faults", numbers, "tests.fuzz.bad_examiner")
    assert summary.count == len(numbers)
    assert {(each.rule, len(each.data)) for each in summary.found} == {("exception", 1)}


def test_files_are_broken_the_same_way_by_the_same_seed() -> None:
    """A seed stands for one broken file, and different seeds for different ones."""
    files = originals()
    broken = [mutated(Random(f"x:{number}"), files) for number in range(50)]
    assert broken == [mutated(Random(f"x:{number}"), files) for number in range(50)]
    assert len({data for _, data in broken}) > 40
    assert sum(data != files[name] for name, data in broken) > 40


def test_reproducers_are_as_short_as_they_can_be() -> None:
    """Shrinking leaves only what shows the fault."""
    assert shrunk(b"abcXdefghYij", lambda tried: b"X" in tried and b"Y" in tried) == b"XY"
    assert shrunk((1, 2, 3, 4, 5), lambda tried: 4 in tried) == (4,)


def test_what_was_found_is_saved(tmp_path: Path) -> None:
    """A finding becomes a file of its bytes, and a text that says what it is and what program it holds."""
    path = Found("safe", "a call", b"cos\ngetcwd\n)R.", "s:1").save(os.fspath(tmp_path / "found"))
    assert Path(path).read_bytes() == b"cos\ngetcwd\n)R."
    text = Path(path.replace(".bin", ".txt")).read_text(encoding="utf-8")
    assert "a call" in text
    assert "s:1" in text
    assert "os getcwd" in text
