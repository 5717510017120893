"""The options of ``modelhub scan`` that bear on many files, on depth and on evidence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelhub import verdict_cache
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.tensors import DType
from tests.cli.run import ROOT, modelhub

Make = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_cache_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def library(make: Make) -> list[str]:
    """A folder ``lib`` of 45 files of three sorts."""
    make("safe.pt", "unsafe.pt", "truncated.pt")
    os.mkdir("lib")
    names = []
    for number in range(45):
        source = ("unsafe.pt", "truncated.pt")[number % 2] if number % 9 == 0 else "safe.pt"
        names.append(f"lib/{number:02}.pt")
        os.link(source, names[-1])
    return names


def _reports(*arguments: str) -> list[dict[str, Any]]:
    ran = modelhub("scan", "--format", "jsonl", *arguments)
    reports: list[dict[str, Any]] = ran.json_lines()
    return reports


def test_jobs_change_nothing_but_the_time(library: list[str]) -> None:
    """With any number of processes the answer is the same, in the order of the files."""
    options = ("--no-cache", "--no-second-opinion", "lib")  # how long fickling may take is a matter of the machine
    alone = _reports("--jobs", "1", *options)
    assert [report["path"] for report in alone] == library
    assert _reports("--jobs", "3", *options) == alone
    assert _reports(*options) == alone
    assert modelhub("scan", "--jobs", "0", "lib").code == 2


def test_the_cache_changes_nothing_but_the_time(library: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scanned twice with the cache, once with a broken one and once without, a library has the same reports."""
    monkeypatch.setattr(verdict_cache, "SETTLED", -3600.0)
    options = ("--no-second-opinion", "lib")
    plain = _reports("--no-cache", *options)
    assert not os.path.exists(verdict_cache.cache_folder())
    assert _reports(*options) == plain
    (cache,) = Path(verdict_cache.cache_folder()).iterdir()
    assert _reports(*options) == plain
    assert _reports("--no-digest", *options) == [report | {"digest": {"sha256": None}} for report in plain]
    cache.write_bytes(b"garbage" * 1000)
    ran = modelhub("scan", "--format", "jsonl", *options)
    assert ran.json_lines() == plain
    assert "cache of verdicts is not used" in ran.err


def test_a_single_file_leaves_no_cache(make: Make) -> None:
    """Scanning a file or two writes nothing anywhere."""
    make("safe.pt", "unsafe.pt")
    modelhub("scan", "safe.pt", "unsafe.pt")
    assert not os.path.exists(verdict_cache.cache_folder())


def test_every_file_of_a_folder_is_looked_at(make: Make) -> None:
    """A payload is found under any name; other files of no model's name are not mentioned, with --by-name not read."""
    make("safe.pt", "unsafe.pt")
    os.mkdir("lib")
    os.rename("unsafe.pt", "lib/cover.png")
    os.rename("safe.pt", "lib/model")
    Path("lib/readme.md").write_text("# A model\n")
    reports = _reports("lib")
    assert [(report["path"], report["verdict"]) for report in reports] == [
        ("lib/cover.png", "unsafe"),
        ("lib/model", "safe"),
    ]
    ran = modelhub("scan", "--by-name", "lib")
    assert ran.code == 2 and "nothing to scan" in ran.err
    Path("lib/fine.safetensors").write_bytes(b"")
    assert [report["path"] for report in _reports("--by-name", "lib")] == ["lib/fine.safetensors"]


def test_deep_reads_what_a_scan_does_not() -> None:
    """--deep finds a flipped bit in tensor data, which a scan does not read."""
    write_torch_zip("model.pt", random_weights({"w": (DType.F32, (1 << 16,))}, seed=4))
    data = bytearray(Path("model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    Path("model.pt").write_bytes(data)
    assert modelhub("scan", "model.pt").code == 0
    (deep,) = _reports("--deep", "model.pt")
    assert "zip.crc" in [finding["rule"] for finding in deep["findings"]]
    assert deep["verdict"] != "safe"


def test_explain_shows_the_payload_as_python(make: Make) -> None:
    """--explain shows what a file that is not SAFE would do, with offsets, for people and for programs."""
    make("unsafe.pt", "safe.pt")
    out = modelhub("scan", "--explain", "unsafe.pt", "safe.pt").out
    assert "echo harmless" in out.split("as Python")[1]
    assert out.count("as Python") == 1
    unsafe, safe = _reports("--explain", "unsafe.pt", "safe.pt")
    lines = unsafe["pickles"][0]["lines"]
    assert any("system" in line["python"] and isinstance(line["offset"], int) for line in lines)
    assert "pickles" not in safe


def test_explain_of_standard_input(make: Make) -> None:
    """What came on standard input can be explained as well, though it cannot be read again."""
    from tests.cli.run import process

    make("unsafe.pt")
    done = process("scan", "--explain", "--format", "jsonl", "-", stdin=Path("unsafe.pt").read_bytes())
    assert any("echo harmless" in line["python"] for line in json.loads(done.stdout)["pickles"][0]["lines"])


def test_a_second_opinion_is_heard_on_demand(make: Make) -> None:
    """--second-opinion adds what fickling says of a file whose verdict is clear; without, nobody asks it."""
    make("unsafe.pt")

    def opinions(*options: str) -> list[str]:
        (report,) = _reports(*options, "unsafe.pt")
        return [finding["rule"] for finding in report["findings"] if finding["rule"].startswith("opinion.")]

    assert opinions("--second-opinion")
    assert not opinions()
    assert not opinions("--no-second-opinion")


def test_a_policy_of_the_users_own(library: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--policy FILE makes safe what it allows, in every process and past the cache, and each report says so."""
    monkeypatch.setattr(verdict_cache, "SETTLED", -3600.0)
    Path("own.toml").write_text('[[allow]]\nmodule = "ourtrainer.state"\nnames = ["TrainState"]\ncall = "empty"\n')
    for name in library:
        os.unlink(name)
        Path(name).write_bytes(dumps(Call(Import("ourtrainer.state", "TrainState"), ())))
    plain = _reports("--jobs", "2", "lib")
    own = _reports("--jobs", "2", "--policy", "own.toml", "lib")
    assert {report["verdict"] for report in plain} == {"suspicious"}
    assert {report["verdict"] for report in own} == {"safe"}
    assert all("policy.extended" in [finding["rule"] for finding in report["findings"]] for report in own)
    assert {report["policy_version"] for report in own}.isdisjoint(report["policy_version"] for report in plain)
    assert {report["verdict"] for report in _reports("lib", "--no-second-opinion")} == {"suspicious"}


def test_a_policy_that_is_none(make: Make) -> None:
    """A policy file that is missing or is no policy is an error, and nothing is scanned."""
    make("safe.pt")
    Path("broken.toml").write_text("not toml")
    for name in ("broken.toml", "missing.toml"):
        ran = modelhub("scan", "--policy", name, "safe.pt")
        assert (ran.code, ran.out) == (2, "")
        assert name in ran.err


def test_the_rules_can_be_listed() -> None:
    """--list-rules needs no path, and names every rule, for people and for programs."""
    for_people = modelhub("scan", "--list-rules")
    assert for_people.code == 0
    assert "source.not-found" in for_people.out
    for_programs = modelhub("scan", "--list-rules", "--format", "json")
    assert for_programs.code == 0
    assert "source.not-found" in json.dumps(for_programs.json())


def test_sarif(make: Make) -> None:
    """--format sarif is a SARIF log of the findings."""
    make("unsafe.pt", "safe.pt")
    ran = modelhub("scan", "--format", "sarif", "unsafe.pt", "safe.pt", "gone.pt")
    assert ran.code == 1
    log = ran.json()
    assert log["version"] == "2.1.0"
    assert log["runs"][0]["results"]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_ctrl_c_with_several_processes(make: Make) -> None:
    """Ctrl-C ends a scan in several processes with one line and 130, and leaves none of them behind."""
    make("safe.pt")
    os.mkdir("many")
    for number in range(3000):
        os.link("safe.pt", f"many/{number}.pt")
    running = subprocess.Popen(
        [sys.executable, "-m", "modelhub", "scan", "--no-cache", "--jobs", "2", "--format", "jsonl", "many"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert running.stdout is not None
    running.stdout.readline()
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, b"error: interrupted\n")
    for _ in range(100):
        if not _group(running.pid):
            break
        time.sleep(0.05)
    assert not _group(running.pid)


def _group(leader: int) -> list[str]:
    """The processes that are left of the group of *leader*."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[2]) == leader and stat[0] != "Z":
                found.append(entry)
    return found
