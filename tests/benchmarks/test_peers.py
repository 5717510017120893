"""Other scanners are asked fairly: what they answer is what their process would have ended with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import corpus, peers, scan
from benchmarks.measure import Summary
from tests.corpus import CorpusFile, Label

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forked")

PROGRAM = """
import os, sys, time

def main():
    word = sys.argv[-1]
    if word == "hang":
        time.sleep(60)
    if word == "crash":
        raise ValueError
    if word == "signal":
        os.abort()
    if word == "sentence":
        sys.exit("something was wrong")
    if word == "hoard":
        return len(bytearray(8 << 30))
    print(word)
    return int(word)
"""


def tool(tmp_path: Path) -> peers.Tool:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return peers.Tool("program", sys.executable, (sys.executable, str(path)), f"{path}:main", ("--option",))


def test_each_answer_is_an_exit_code(tmp_path: Path) -> None:
    """Return values and exits are codes, exceptions and signals crashes, and what hangs is stopped."""
    words = ["0", "1", "2", "sentence", "crash", "signal", "hang", "0"]
    expected = ["0", "1", "2", "1", "crash", "crash", "timeout", "0"]
    for jobs in (1, 3):
        assert peers.answers(tool(tmp_path), words, str(tmp_path), timeout=1.0, jobs=jobs) == expected


def test_a_program_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    """A scanner that is not there has no answers, rather than none to each file."""
    absent = peers.Tool("absent", sys.executable, (), "no_such_module:main")
    with pytest.raises(RuntimeError, match="absent cannot be run"):
        peers.answers(absent, ["0"], str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts private memory")
def test_one_that_eats_memory_is_stopped(tmp_path: Path) -> None:
    """A program cannot take more memory than it is given."""
    assert peers.answers(tool(tmp_path), ["hoard", "0"], str(tmp_path)) == ["crash", "0"]


def test_programs_run_in_a_home_of_their_own(tmp_path: Path) -> None:
    """Nothing of the user's settings or caches is seen or written, and no telemetry is sent."""
    environment = peers.environment(str(tmp_path))
    assert environment["HOME"].startswith(str(tmp_path))
    assert environment["PROMPTFOO_DISABLE_TELEMETRY"] == "1"
    assert not [name for name in environment if name.startswith(("MODELHUB_", "XDG_"))]


def test_this_modelhub_answers_as_its_process_does(tmp_path: Path) -> None:
    """A file that runs a command is 1, a plain one 0, one cut off 2."""
    files = {"evil": b"cos\nsystem\n(S'true'\ntR.", "plain": b"\x80\x02]q\x00.", "cut": b"\x80\x02]q"}
    for name, data in files.items():
        (tmp_path / f"{name}.pkl").write_bytes(data)
    paths = [str(tmp_path / f"{name}.pkl") for name in files]
    assert peers.answers(peers.ours(("--no-second-opinion",)), paths, str(tmp_path)) == ["1", "0", "2"]


def files() -> list[CorpusFile]:
    labels: tuple[Label, ...] = ("malicious", "malicious", "malicious", "benign", "broken")
    return [CorpusFile(f"{n}", label, "trick", f"file {n}") for n, label in enumerate(labels)]


def test_answers_are_counted_by_label() -> None:
    """Detected, missed and unanswered are told apart; so are passes, alarms and no answers of benign files."""
    table = corpus.summary(files(), {"program": ["1", "0", "3", "1", "0"]})
    assert table[2] == "| `program` | 1 (33.3%) | 1 | 1 | 0 | 1 (100.0%) | 0 | 1 |"
    rows = corpus.by_attack(files(), {"program": ["1", "0", "crash", "1", "0"]}, "malicious")
    assert rows[2] == "| trick | 3 | 1 / 1 / 1 |"


def test_a_miss_of_ours_is_told() -> None:
    """The promises are judged by the answers, and each malicious file called safe is named."""
    told = "\n".join(corpus.promises(files(), ["1", "0", "2", "0", "2"]))
    assert "All malicious files not safe: NOT met" in told
    assert "Missed: file 1" in told
    assert "No benign file worse than safe: met" in told
    assert "NOT met" not in "\n".join(corpus.promises(files(), ["1", "1", "1", "0", "2"]))


def summary(wall: float, *exit_codes: int) -> Summary:
    return Summary(wall, wall, wall, wall, 50_000_000, 3, exit_codes)


def test_no_answer_is_no_speed() -> None:
    """A program that failed is not the one to beat, however quickly it failed."""
    results = {"modelhub": summary(0.05, 0), "quick": summary(0.01, 2), "slow": summary(0.5, 0)}
    assert scan.best_peer(results) == ("slow", 0.5)
    assert "no answer" in scan._cell(results["quick"])
    assert scan.best_peer({"modelhub": summary(0.05, 0)}) is None


def test_being_slower_is_told() -> None:
    """Where a peer was quicker the report says so and names the file."""
    results = {"modelhub": summary(0.5, 0), "quick": summary(0.1, 0)}
    assert "NOT met" in scan.verdict_lines({"loras": ("x", results)})[0]


def test_a_wrong_verdict_of_ours_is_told() -> None:
    """Being quick does not count when the answer is wrong: an ordinary file that was not safe is named."""
    results = {"modelhub": summary(0.1, 2), "slow": summary(0.5, 0)}
    assert any("NOT met (not so: 200 SD 1 LoRAs" in line for line in scan.verdict_lines({"loras": ("x", results)}))
