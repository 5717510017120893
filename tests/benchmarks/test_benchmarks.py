"""The benchmarks measure what they say they do, and their reports say nothing of whose machine it was."""

from __future__ import annotations

import pickletools
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import build, machine, measure, report, startup
from modelhub.container import open_path

ROOT = Path(build.__file__).parent.parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are measured with wait4")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_is_measured_from_outside() -> None:
    """Time and exit code are those of the process."""
    done = measure.run(python("import time; time.sleep(0.2); raise SystemExit(1)"))
    assert done.exit_code == 1
    assert 0.2 <= done.wall < 20
    assert 0 < done.processor < done.wall


def test_peak_memory_is_that_of_the_process() -> None:
    """A process that holds 100 MB shows 100 MB more than one that holds nothing, when a small one starts them."""
    code = """
import sys
from benchmarks.measure import run
idle, full = (run([sys.executable, "-c", f"held = bytearray({size})"]) for size in (0, 100_000_000))
print(full.peak_memory - idle.peak_memory)
"""
    done = subprocess.run(python(code), check=True, capture_output=True, text=True, cwd=ROOT)
    assert 80e6 < int(done.stdout) < 120e6


def test_bytecode_is_kept_while_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of this shell that makes Python compile its modules at every start does not reach what is measured."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert measure.run(python("import sys; raise SystemExit(sys.dont_write_bytecode)")).exit_code == 0


def test_runs_are_interleaved_and_checked(tmp_path: Path) -> None:
    """Commands take turns, the first turn too; one that fails is an error and not a result."""
    log = tmp_path / "log"
    commands = {name: python(f"open({str(log)!r}, 'a').write({name!r})") for name in ("a", "b")}
    results = measure.interleaved(commands, 2)
    assert log.read_text() == "abba"
    assert results["a"].runs == 2
    assert results["a"].least <= results["a"].wall <= results["a"].most
    with pytest.raises(RuntimeError, match="exit code 1"):
        measure.interleaved({"bad": python("raise SystemExit(1)")}, 1)
    measure.interleaved({"found": python("raise SystemExit(1)")}, 1, expected={"found": 1})


def test_a_file_is_built_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there is left alone; one whose writing broke off is not there."""
    path = Path(build.build("malicious", str(tmp_path)))
    assert path.stat().st_size < 100
    path.write_bytes(b"kept")
    build.build("malicious", str(tmp_path))
    assert path.read_bytes() == b"kept"

    def breaks_off(name: str) -> None:
        Path(name).write_bytes(b"half")
        raise OSError

    monkeypatch.setitem(build.FILES, "breaks", ("breaks.pt", "", breaks_off))
    with pytest.raises(OSError):
        build.build("breaks", str(tmp_path))
    assert not (tmp_path / "breaks.pt").exists()


def test_a_built_lora_is_a_whole_file(tmp_path: Path) -> None:
    """What the builder writes is read by modelhub without a complaint."""
    with open_path(build.build("sdxl-lora", str(tmp_path))) as container:
        assert container.kind == "torch-zip"
        assert container.anomalies == ()
        assert container.state_dict is not None
        assert len(container.state_dict) == 3 * 986


def test_the_machine_is_described_without_its_name_or_paths(tmp_path: Path) -> None:
    """Processor, memory and versions, but neither host name nor folder."""
    text = "\n".join(machine.description(str(tmp_path), ("torch",)))
    assert "cores" in text
    assert "Python 3" in text
    assert "torch" in text
    assert socket.gethostname() not in text
    assert str(tmp_path) not in text


def test_tables_are_markdown() -> None:
    """Columns but the first stand to the right; times and sizes are for people."""
    assert report.table(("", "wall"), [("copy", report.seconds(1.234))]) == [
        "|  | wall |",
        "| --- | ---: |",
        "| copy | 1.23 s |",
    ]
    assert report.seconds(0.0123) == "12 ms"
    assert report.megabytes(250e6) == "250 MB"


def test_modules_are_counted() -> None:
    """The count of what a command loads includes the command line's own modules and none of torch's."""
    modules = startup.modules_loaded(["--help"])
    assert "modelhub.cli" in modules
    assert "click" in modules
    assert "torch" not in modules


def test_one_that_hangs_is_killed(tmp_path: Path) -> None:
    """A process that outlives its time ends with what it started, and its exit code says so."""
    done = measure.run(python("import time; time.sleep(60)"), folder=str(tmp_path), timeout=0.3, quiet=True)
    assert done.exit_code == -9
    assert done.wall < 20


def test_the_slow_sit_out_and_any_ending_counts() -> None:
    """Who has used up the budget runs no more, and every exit code is recorded where any will do."""
    commands = {"slow": python("import time; time.sleep(0.3)"), "found": python("raise SystemExit(1)")}
    results = measure.interleaved(commands, 3, expected={"found": measure.ANY}, budget=0.2)
    assert results["slow"].runs == 1
    assert results["found"].runs >= 2
    assert results["found"].exit_codes == (1,)


def test_ranks_spread_the_sizes() -> None:
    """Ranks of the folder of LoRAs go from the smallest to the largest, the small ones more often."""
    ranks = build.lora_ranks(100)
    assert (ranks[0], ranks[-1], len(ranks)) == (1, 33, 100)
    assert ranks == sorted(ranks)
    assert ranks[50] < 10


def test_the_plain_pickle_has_the_opcodes_it_claims(tmp_path: Path) -> None:
    """Thirteen opcodes per record and a few around them: 385,000 records are five million."""
    path = tmp_path / "plain.pkl"
    build._plain(str(path), records=5_000)
    assert 13 * 5_000 <= sum(1 for _ in pickletools.genops(path.read_bytes())) < 13 * 5_000 + 100


def test_a_page_gets_its_tables(tmp_path: Path) -> None:
    """What stands between a page's marks is replaced, the rest is kept; a page without them is an error."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    report.embed("speed", ["new"], str(page))
    assert page.read_text() == "before\n<!-- speed -->\n\nnew\n\n<!-- /speed -->\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        report.embed("corpus", ["new"], str(page))


def test_the_comparison_page_has_room_for_its_tables() -> None:
    """Both tables that the benchmarks write have their marks in the documentation."""
    text = Path(report.COMPARISON).read_text(encoding="utf-8")
    for name in ("corpus", "speed"):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1
