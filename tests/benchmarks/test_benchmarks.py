"""The benchmarks measure what they say they do, and their reports say nothing of whose machine it was."""

from __future__ import annotations

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
