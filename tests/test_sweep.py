"""Scanning many files."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelhub import sweep as module
from modelhub import verbs, verdict_cache
from modelhub.container import Container
from modelhub.errors import NotFound, SourceError
from modelhub.judging import Answer, ScanOptions, judge
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.scan import load_policy
from modelhub.source import Found, find_sources
from modelhub.sweep import sweep
from modelhub.tensors import DType

LAYOUT = {"first.weight": (DType.F16, (4, 8)), "first.bias": (DType.F32, (4,))}
OPTIONS = ScanOptions(load_policy(), second_opinion=False)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no cache but its own."""
    for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def library() -> list[str]:
    """Paths of 40 files of which every seventh is a payload, every fifth broken."""
    write_torch_zip("safe.pt", random_weights(LAYOUT, seed=1))
    whole = Path("safe.pt").read_bytes()
    os.unlink("safe.pt")
    payload = dumps(Call(Import("os", "system"), ("echo harmless",)))
    names = []
    for number in range(40):
        name = f"{number:02}.pt"
        data = payload if number % 7 == 0 else whole[:200] if number % 5 == 0 else whole
        Path(name).write_bytes(data)
        names.append(name)
    return names


def _swept(paths: list[str], options: ScanOptions = OPTIONS, **how: Any) -> list[Answer]:
    return list(sweep(map(Found, paths), options, **how))


def _verdicts(answers: list[Answer]) -> list[tuple[str, str]]:
    return [(answer.report.path, answer.report.verdict.label) for answer in answers]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_processes_give_the_answers_of_one(
    library: list[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many processes scan, and however they are started, the reports and their order are the same."""
    if method == "spawn":
        monkeypatch.setattr(threading, "active_count", lambda: 2)
    alone = _swept(library, jobs=1, cache=False)
    together = _swept(library, jobs=3, cache=False)
    assert [answer.report for answer in together] == [answer.report for answer in alone]
    assert [answer.report.path for answer in together] == library
    assert {answer.report.verdict.label for answer in together} == {"safe", "unknown", "unsafe"}


def test_errors_keep_their_place(library: list[str]) -> None:
    """What cannot be had is a report in its place, among many files as among few."""
    sources: list[Found | SourceError] = [Found(path) for path in library]
    sources.insert(3, NotFound("x.pt: no such file", path="x.pt"))
    sources.insert(20, Found("gone.pt"))
    for jobs in (1, 2):
        reports = [answer.report for answer in sweep(sources, OPTIONS, jobs=jobs, cache=False)]
        assert [report.path for report in reports] == [*library[:3], "x.pt", *library[3:19], "gone.pt", *library[19:]]
        assert [reports[place].findings[0].rule for place in (3, 20)] == ["source.not-found"] * 2


def _fork_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' libraries may have left threads behind, and with those about nothing is forked."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def _die_at(paths: set[str], how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verbs.scan
    parent = os.getpid()

    def scan(target: Any, **options: Any) -> Any:
        if target in paths and os.getpid() != parent:
            if how == "raise":
                raise RuntimeError("a fault of ours")
            if how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(target, **options)

    monkeypatch.setattr(verbs, "scan", scan)
    _fork_in_any_case(monkeypatch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the fault is planted before a fork")
@pytest.mark.parametrize(
    ("how", "said"), [("raise", "RuntimeError: a fault of ours"), ("exit", "exit code 3"), ("kill", "SIGKILL")]
)
def test_a_worker_that_dies_costs_one_file(
    library: list[str], how: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that kills the process which examines it is a report that says so, and every other file is scanned."""
    expected = dict(_verdicts(_swept(library, jobs=1, cache=False)))
    deadly = {library[1], library[2], library[30], library[39]}
    _die_at(deadly, how, monkeypatch)
    answers = _swept(library, jobs=2, cache=False)
    assert [answer.report.path for answer in answers] == library
    for answer in answers:
        report = answer.report
        if report.path in deadly:
            assert report.verdict.label == "unknown"
            assert report.findings[0].rule == "internal.error"
            assert said in report.findings[0].message
            assert not report.coverage.complete
        else:
            assert report.verdict.label == expected[report.path]


def test_where_no_process_can_be_had(library: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """When processes cannot be started, or do not come up, everything is scanned in this one."""
    from modelhub import workers

    _fork_in_any_case(monkeypatch)
    expected = _verdicts(_swept(library, jobs=1, cache=False))

    def refused(*args: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refused)
        assert _verdicts(_swept(library, jobs=2, cache=False)) == expected
    with monkeypatch.context() as patch:
        patch.setattr(workers, "serve", lambda *args: os._exit(1))
        assert _verdicts(_swept(library, jobs=2, cache=False)) == expected


def _children() -> set[int]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == os.getpid() and stat[0] != "Z":
                found.add(int(entry))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are counted in /proc")
def test_no_process_outlives_the_sweep(library: list[str]) -> None:
    """When the answers are all there, or nobody wants more of them, the processes are gone."""
    before = _children()
    _swept(library, jobs=2, cache=False)
    assert _children() == before
    answers = sweep(map(Found, library), OPTIONS, jobs=2, cache=False)
    next(answers)
    assert _children() > before
    answers.close()
    assert _children() == before


def test_few_files_start_nothing(library: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a few files neither processes nor the cache are started, unless asked for."""

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(module._Sweep, "_call_crew", forbidden)
    monkeypatch.setattr(module._Sweep, "_open_cache", forbidden)
    assert len(_swept(library[:20])) == 20
    with pytest.raises(AssertionError, match="started"):
        _swept(library[:2], cache=True)
    with pytest.raises(AssertionError, match="started"):
        _swept(library[:2], jobs=2)
    with pytest.raises(AssertionError, match="started"):
        _swept(library)


def test_answers_stream() -> None:
    """The first answer is there long before the last file is found, and no more than a window of files is held."""
    write_torch_zip("safe.pt", random_weights(LAYOUT, seed=1))
    taken = 0

    def sources() -> Iterator[Found]:
        nonlocal taken
        for _ in range(20_000):
            taken += 1
            yield Found("safe.pt")

    for jobs in (1, 2):
        taken = 0
        answers = sweep(sources(), OPTIONS, jobs=jobs, cache=False)
        next(answers)
        assert taken <= 1024
        for _ in range(50):
            next(answers)
        assert taken <= 50 + 1024
        answers.close()


def test_memory_stays_flat(library: list[str]) -> None:
    """Ten times the files do not take more memory."""

    def peak_after(count: int) -> int:
        for _ in sweep((Found(library[1]) for _ in range(count)), OPTIONS, jobs=1, cache=False):
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    small = peak_after(200)
    assert peak_after(2000) - small < 4 << 10  # KiB


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were examined rather than remembered; every file is settled at once."""
    monkeypatch.setattr(verdict_cache, "SETTLED", -3600.0)
    paths: list[str] = []
    real = verbs.scan

    def scan(target: Any, **options: Any) -> Any:
        paths.append(target)
        return real(target, **options)

    monkeypatch.setattr(verbs, "scan", scan)
    return paths


def test_unchanged_files_are_not_opened_again(library: list[str], opened: list[str]) -> None:
    """A second sweep gives the same reports and opens only what was not fully examined; a changed file is examined."""
    first = _swept(library, jobs=1)
    assert opened == library
    opened.clear()
    assert _swept(library, jobs=1) == first
    assert opened == [answer.report.path for answer in first if not answer.report.coverage.complete]
    opened.clear()
    Path(library[1]).write_bytes(Path(library[0]).read_bytes())
    changed = _swept(library, jobs=1)
    assert library[1] in opened
    assert changed[1].report.verdict.label == "unsafe"
    opened.clear()
    assert _swept(library, jobs=1, cache=False) == changed
    assert opened == library


def test_what_is_not_asked_of_the_cache(library: list[str], opened: list[str]) -> None:
    """A deep scan and an opinion that is asked for read the files, whatever is known of them."""
    names = [library[1], library[2]]
    _swept(names, cache=True)
    for options in (
        ScanOptions(OPTIONS.policy, deep=True, second_opinion=False),
        ScanOptions(OPTIONS.policy, second_opinion=True),
    ):
        opened.clear()
        _swept(names, options, cache=True, jobs=1)
        assert opened == names


def test_a_broken_cache_changes_nothing_but_a_note(library: list[str], opened: list[str]) -> None:
    """With a damaged cache the answers are those without one, and it is said once."""
    expected = _swept(library, jobs=1)
    folder = verdict_cache.cache_folder()
    (name,) = os.listdir(folder)
    Path(folder, name).write_bytes(b"garbage" * 1000)
    notes: list[str] = []
    assert _swept(library, jobs=1, on_note=notes.append) == expected
    assert len(notes) == 1 and "cache" in notes[0]


def test_harmless_files_of_other_names_are_left_out() -> None:
    """Of files that nobody called a model, only models and what would do harm are answered."""
    write_torch_zip("safe.pt", random_weights(LAYOUT, seed=1))
    Path("mine").mkdir()
    os.rename("safe.pt", "mine/nameless")
    payload = dumps(Call(Import("os", "system"), ("echo harmless",)))
    Path("mine/preview.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    Path("mine/evil.jpg").write_bytes(payload)
    Path("mine/notes.txt").write_text("(nothing to see here)\n")
    Path("mine/broken.pt").write_bytes(b"")
    os.mkfifo("mine/pipe")
    answers = sweep(find_sources(["mine"], every_file=True), OPTIONS)
    assert _verdicts(list(answers)) == [
        ("mine/broken.pt", "unknown"),
        ("mine/evil.jpg", "unsafe"),
        ("mine/nameless", "safe"),
    ]


def test_progress_of_several_processes(library: list[str]) -> None:
    """The bytes that other processes read are told here."""
    for jobs in (1, 2):
        told: list[int] = []
        begun: list[str | None] = []
        options = ScanOptions(OPTIONS.policy, digest=True, second_opinion=False)
        _swept(library, options, jobs=jobs, cache=False, progress=told.append, on_file=begun.append)
        assert sum(told) == sum(map(os.path.getsize, library))
        assert begun == (library if jobs == 1 else [None])


def test_an_open_container_is_judged_as_it_is(library: list[str]) -> None:
    """What judges one file takes what the verbs take."""
    from modelhub.container import open_path

    with open_path(library[1]) as container:
        assert isinstance(container, Container)
        assert judge(container, "known as this", OPTIONS).report.verdict.label == "safe"
