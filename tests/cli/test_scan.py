"""``modelhub scan``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.run import ROOT, modelhub, process

Make = Callable[..., None]

EXIT_CODES = [
    (["safe.pt"], [], 0),
    (["safe.safetensors"], [], 0),
    (["safe.pt", "safe.safetensors"], [], 0),
    (["unsafe.pt"], [], 1),
    (["suspicious.pt"], [], 1),
    (["truncated.pt"], [], 2),
    (["junk.ckpt"], [], 2),
    (["empty.ckpt"], [], 2),
    (["page.safetensors"], [], 2),
    (["missing.ckpt"], [], 2),
    (["safe.pt", "truncated.pt"], [], 2),
    (["safe.pt", "missing.ckpt"], [], 2),
    (["unsafe.pt", "missing.ckpt", "truncated.pt", "safe.pt"], [], 1),
    (["safe.pt", "unsafe.pt"], [], 1),
    (["unsafe.pt"], ["--fail-on", "unsafe"], 1),
    (["suspicious.pt"], ["--fail-on", "unsafe"], 0),
    (["suspicious.pt", "truncated.pt"], ["--fail-on", "unsafe"], 2),
    (["truncated.pt"], ["--fail-on", "unknown"], 1),
    (["suspicious.pt"], ["--fail-on", "unknown"], 1),
    (["safe.pt"], ["--fail-on", "unknown"], 0),
    (["unsafe.pt"], ["--exit-zero"], 0),
    (["truncated.pt", "missing.ckpt"], ["--exit-zero"], 0),
]


@pytest.mark.parametrize(("names", "options", "code"), EXIT_CODES)
def test_exit_codes(make: Make, names: list[str], options: list[str], code: int) -> None:
    """1: a verdict reached --fail-on; 2: else something was not fully examined; 0: else. Findings outrank errors."""
    make(*(name for name in names if name != "missing.ckpt"))
    ran = modelhub("scan", *options, *names)
    assert ran.code == code
    assert len([text for text in ran.out.splitlines() if not text.startswith(" ")]) == len(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan"],
        ["scan", "--fail-on", "dangerous", "safe.pt"],
        ["scan", "--format", "xml", "safe.pt"],
        ["scan", "--exit-zero", "--nonsense", "safe.pt"],
        ["scna", "safe.pt"],
        [],
    ],
)
def test_wrong_usage_is_2_and_says_so(make: Make, arguments: list[str]) -> None:
    """Wrong usage ends with 2, even with --exit-zero, and says on standard error what is wrong."""
    make("safe.pt")
    ran = modelhub(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert "Usage: modelhub" in ran.err


def test_a_misspelt_command_is_guessed() -> None:
    """An unknown command names the nearest one."""
    assert "Did you mean 'scan'?" in modelhub("scna").err


def test_nothing_matched_is_2(tmp_path: Path) -> None:
    """A folder without a model file, or a pattern that fits nothing, is not a clean scan."""
    Path("notes.txt").write_text("no model")
    assert modelhub("scan", ".").code == 2
    assert modelhub("scan", "--format", "json", ".").json() == {
        "schema": "modelhub.scan/1",
        "complete": False,
        "reports": [],
    }
    assert modelhub("scan", "*.ckpt").code == 2
    assert modelhub("scan", "--exit-zero", ".").code == 0


def test_what_cannot_be_opened(make: Make) -> None:
    """A dangling link, a FIFO and a missing file are each reported, do not block and do not stop the rest."""
    make("safe.pt")
    os.symlink("nowhere.ckpt", "dangling.ckpt")
    os.mkfifo("pipe.ckpt")
    ran = modelhub("scan", "--format", "json", "dangling.ckpt", "pipe.ckpt", "gone.ckpt", "safe.pt")
    assert ran.code == 2
    document = ran.json()
    assert document["complete"] is False
    reports = {report["path"]: report for report in document["reports"]}
    assert list(reports) == ["dangling.ckpt", "pipe.ckpt", "gone.ckpt", "safe.pt"]
    rules = {path: [finding["rule"] for finding in report["findings"]] for path, report in reports.items()}
    assert rules["dangling.ckpt"] == rules["gone.ckpt"] == ["source.not-found"]
    assert rules["pipe.ckpt"] == ["source.unreadable"]
    for path in ("dangling.ckpt", "pipe.ckpt", "gone.ckpt"):
        assert reports[path]["verdict"] == "unknown"
        assert reports[path]["container"] is None
        assert reports[path]["coverage"]["complete"] is False
        assert reports[path]["coverage"]["skipped"][0]["reason"] == reports[path]["findings"][0]["message"]
    assert reports["safe.pt"]["verdict"] == "safe"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable to this user")
def test_what_may_not_be_read(make: Make) -> None:
    """A file without read permission is reported as such."""
    make("safe.pt")
    Path("safe.pt").chmod(0)
    (report,) = modelhub("scan", "--format", "jsonl", "safe.pt").json_lines()
    assert report["findings"][0]["rule"] == "source.access-denied"


def test_json_schema(make: Make) -> None:
    """The JSON report has exactly the fields that its schema names."""
    make("unsafe.pt", "truncated.pt")
    ran = modelhub("scan", "--format", "json", "unsafe.pt", "truncated.pt")
    document = ran.json()
    assert list(document) == ["schema", "complete", "reports"]
    assert document["schema"] == "modelhub.scan/1"
    assert document["complete"] is False
    unsafe, truncated = document["reports"]
    assert set(unsafe) == {"path", "digest", "container", "verdict", "coverage", "findings", "policy_version"}
    assert unsafe["container"] == "torch-zip"
    assert (unsafe["verdict"], truncated["verdict"]) == ("unsafe", "unknown")
    assert unsafe["coverage"] == {"complete": True, "skipped": []}
    assert truncated["coverage"]["complete"] is False
    assert set(truncated["coverage"]["skipped"][0]) == {"member", "reason"}
    finding = unsafe["findings"][0]
    assert set(finding) == {"rule", "severity", "confidence", "message", "location", "evidence"}
    assert finding["severity"] == "critical"
    assert finding["location"]["member"] == "unsafe/data.pkl"
    assert isinstance(finding["location"]["offset"], int)
    assert "os.system" in finding["evidence"]


def test_jsonl_is_one_report_per_line(make: Make) -> None:
    """jsonl prints the report objects of the JSON document, one per line."""
    make("safe.pt", "unsafe.pt")
    document = modelhub("scan", "--format", "json", "safe.pt", "unsafe.pt").json()
    ran = modelhub("scan", "--format", "jsonl", "safe.pt", "unsafe.pt")
    assert ran.code == 1
    assert ran.json_lines() == document["reports"]


def test_digest_is_computed_of_small_files_and_on_demand(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file's SHA-256 is in the report unasked, a large one's with --digest, none with --no-digest."""
    import hashlib

    make("safe.pt")
    sha256 = hashlib.sha256(Path("safe.pt").read_bytes()).hexdigest()

    def reported(*options: str) -> str | None:
        (report,) = modelhub("scan", "--format", "jsonl", *options, "safe.pt").json_lines()
        digest: str | None = report["digest"]["sha256"]
        return digest

    assert reported() == sha256
    assert reported("--no-digest") is None
    monkeypatch.setattr("modelhub.verbs.DIGEST_LIMIT", 100)
    assert reported() is None
    assert reported("--digest") == sha256


def test_an_internal_error_does_not_stop_the_rest(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should modelhub itself fail on a file, the file is UNKNOWN, says so, and the others are still scanned."""
    from modelhub import verbs

    make("safe.pt", "safe.safetensors")
    real = verbs.scan

    def failing(target: str, **options: object) -> object:
        if target == "safe.pt":
            raise ValueError("a bug")
        return real(target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(verbs, "scan", failing)
    ran = modelhub("scan", "--format", "jsonl", "safe.pt", "safe.safetensors")
    broken, fine = ran.json_lines()
    assert ran.code == 2
    assert broken["verdict"] == "unknown"
    assert broken["findings"][0]["rule"] == "internal.error"
    assert "a bug" in broken["findings"][0]["message"]
    assert fine["verdict"] == "safe"
    assert "Traceback" not in ran.err
    assert "Traceback" in modelhub("scan", "-vv", "safe.pt").err


HOSTILE = ["new\nline.pt", "red\x1b[31m.pt", "\u202egpj.pt", "[bold]markup[red].pt"]


@pytest.mark.parametrize("name", HOSTILE)
def test_file_names_cannot_steer_the_terminal(make: Make, name: str) -> None:
    """Control characters of a file name reach neither stream; in JSON the name is exact."""
    make("safe.pt")
    os.rename("safe.pt", name)
    ran = modelhub("scan", name, f"not there {name}")
    for text in (ran.out + ran.err).splitlines():
        assert text.isprintable()
    assert ran.out.startswith("SAFE")
    assert modelhub("scan", "--format", "json", name).json()["reports"][0]["path"] == name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are always text")
def test_file_names_that_are_not_utf8(make: Make) -> None:
    """A name of any bytes can be scanned; the JSON is ASCII and gives the name back to the byte."""
    make("safe.pt")
    raw = b"caf\xe9-\xff.pt"
    os.rename("safe.pt", os.fsdecode(raw))
    done = process("scan", "--format", "json", os.fsdecode(raw))
    assert done.returncode == 0
    assert os.fsencode(json.loads(done.stdout.decode("ascii"))["reports"][0]["path"]) == raw
    human = process("scan", os.fsdecode(raw))
    assert human.returncode == 0
    assert rb"caf\xe9-\xff.pt" in human.stdout


def test_output_that_the_terminal_cannot_encode(make: Make) -> None:
    """A name that the output's encoding lacks is written as an escape, not refused."""
    make("safe.pt")
    os.rename("safe.pt", "模型.pt")
    done = process("scan", "模型.pt", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert rb"\u6a21\u578b.pt" in done.stdout


def test_files_from(make: Make) -> None:
    """--files-from takes names from a file or standard input, by line or by NUL, beside those on the command line."""
    make("safe.pt", "safe.safetensors", "unsafe.pt")
    Path("by-line").write_bytes(b"safe.safetensors\r\nunsafe.pt\n\n")
    ran = modelhub("scan", "--format", "jsonl", "safe.pt", "--files-from", "by-line")
    assert [report["path"] for report in ran.json_lines()] == ["safe.pt", "safe.safetensors", "unsafe.pt"]
    os.rename("unsafe.pt", "un\nsafe.pt")
    done = process("scan", "--format", "jsonl", "--files-from", "-", stdin=b"safe.pt\0un\nsafe.pt\0")
    assert [json.loads(text)["path"] for text in done.stdout.splitlines()] == ["safe.pt", "un\nsafe.pt"]
    assert modelhub("scan", "--files-from", "no-such-list").code == 2
    Path("nothing").write_bytes(b"\n")
    assert modelhub("scan", "--files-from", "nothing").code == 2


def test_standard_input_is_a_file_too(make: Make) -> None:
    """``-`` is what standard input holds, by its content; it cannot be a list of paths at the same time."""
    make("unsafe.pt", "safe.pt")
    done = process("scan", "--format", "json", "-", "safe.pt", stdin=Path("unsafe.pt").read_bytes())
    assert done.returncode == 1
    reports = json.loads(done.stdout)["reports"]
    assert [(report["path"], report["verdict"]) for report in reports] == [("-", "unsafe"), ("safe.pt", "safe")]
    inspected = json.loads(process("inspect", "--format", "jsonl", "-", stdin=Path("safe.pt").read_bytes()).stdout)
    assert inspected["tensor_count"] == 2
    assert process("scan", "-").returncode == 2
    assert process("scan", "-", "--files-from", "-").returncode == 2


def test_data_on_stdout_and_everything_else_on_stderr(make: Make) -> None:
    """Standard output is the report and nothing else, for people and for programs."""
    make("unsafe.pt")
    done = process("scan", "unsafe.pt")
    assert done.returncode == 1
    assert done.stdout.startswith(b"UNSAFE")
    assert b"1 file: 1 unsafe" in done.stderr
    assert b"1 file: 1 unsafe" not in done.stdout
    done = process("scan", "-q", "--format", "json", "unsafe.pt")
    assert json.loads(done.stdout)["reports"]
    assert done.stderr == b""


def test_findings_name_place_reason_and_next_step(make: Make) -> None:
    """For people a finding has its severity, message, member, offset and evidence, and the file a next step."""
    make("unsafe.pt")
    out = modelhub("scan", "unsafe.pt").out
    for words in ("critical", "os.system", "unsafe/data.pkl, byte ", "echo harmless", "next: ", "--salvage"):
        assert words in out


def test_a_reader_that_goes_away(make: Make) -> None:
    """When the reader of the pipe has gone, the scan ends without a word."""
    make("safe.pt")
    names = ["safe.pt"]
    for number in range(3000):
        os.link("safe.pt", f"copy{number}.pt")
        names.append(f"missing{number}.pt")
    running = subprocess.Popen(
        [sys.executable, "-m", "modelhub", "scan", *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    errors = running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == 141
    assert errors == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_in_a_running_scan() -> None:
    """Ctrl-C in the middle of a scan is one line and 130."""
    Path("names").write_text("".join(f"missing{number}.pt\n" for number in range(5000)))
    running = subprocess.Popen(
        [sys.executable, "-m", "modelhub", "scan", "--format", "jsonl", "--files-from", "names"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert running.stdout is not None
    running.stdout.readline()  # it is at work, and cannot get to its end while nobody reads on
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, b"error: interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_standard_output_that_is_full(make: Make) -> None:
    """A full disk behind standard output is one sentence and 2, not a traceback."""
    make("safe.pt")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "modelhub", "scan", "safe.pt"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["error: standard output cannot be written: No space left on device"]
