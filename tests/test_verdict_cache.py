"""The cache of verdicts: it saves work, and never changes an answer."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelhub import verdict_cache
from modelhub.scan import Confidence, Coverage, Finding, Location, ScanReport, Severity, Verdict
from modelhub.scan.stored import dump_report, load_report
from modelhub.source import Digest
from modelhub.verdict_cache import FileIdentity, VerdictCache, identity_of, judged_by

SAFE = ScanReport("model.pt", "torch-zip", Verdict.SAFE, Coverage(True), (), "1", Digest("ab" * 32))
UNSAFE = replace(
    SAFE,
    verdict=Verdict.UNSAFE,
    findings=(
        Finding(
            "call.denied", Severity.CRITICAL, Confidence.HIGH, "os\udcff", Location("a/data.pkl", 7), "os.system()"
        ),
    ),
)


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files are old enough at once; one that is there to be judged."""
    monkeypatch.setattr(verdict_cache, "SETTLED", -3600.0)
    monkeypatch.chdir(tmp_path)
    Path("model.pt").write_bytes(b"model")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def database(folder: str) -> Iterator[sqlite3.Connection]:
    _keep(folder, SAFE)
    connection = sqlite3.connect(os.path.join(folder, os.listdir(folder)[0]), isolation_level=None)
    yield connection
    connection.close()


def _identity(path: str = "model.pt") -> FileIdentity:
    identity = identity_of(path)
    assert identity is not None and identity.is_settled
    return identity


def _keep(folder: str, report: ScanReport, path: str = "model.pt", judge: str = "judge") -> None:
    cache = VerdictCache(judge, folder)
    cache.put(path, _identity(path), report)
    cache.close()
    assert cache.note is None


def _known(
    folder: str, path: str = "model.pt", judge: str = "judge", *, with_digest: bool = True, note: str | None = None
) -> ScanReport | None:
    cache = VerdictCache(judge, folder)
    report = cache.get(path, _identity(path), with_digest=with_digest)
    cache.close()
    assert (cache.note is None) if note is None else (cache.note is not None and note in cache.note)
    return report


@pytest.mark.parametrize("report", [SAFE, UNSAFE, replace(SAFE, digest=None, container=None)])
def test_a_stored_report_is_the_report(report: ScanReport) -> None:
    """Every field of a report comes back from its text as it was."""
    assert load_report(dump_report(report)) == report


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"coverage": 1}', dump_report(SAFE).replace("path", "pad")])
def test_other_text_is_no_report(text: str) -> None:
    """What is not a stored report is a ValueError, whatever it is."""
    with pytest.raises(ValueError):
        load_report(text)


@pytest.mark.parametrize("report", [SAFE, UNSAFE])
def test_what_is_kept_is_known(folder: str, report: ScanReport) -> None:
    """A kept report is given again, field by field, for as long as the file is what it was."""
    assert _known(folder) is None
    _keep(folder, report)
    assert _known(folder) == report
    Path("model.pt").write_bytes(b"MODEL")
    assert _known(folder) is None


def test_an_identity_changes_with_the_bytes() -> None:
    """Bytes rewritten in place, with the times of modification set back, have another identity."""
    before = _identity()
    Path("model.pt").write_bytes(b"other")
    os.utime("model.pt", ns=(before.mtime_ns, before.mtime_ns))
    after = _identity()
    assert (after.size, after.mtime_ns, after.ino) == (before.size, before.mtime_ns, before.ino)
    assert after != before


def test_copies_share_a_verdict(folder: str) -> None:
    """The verdict belongs to the bytes: a copy whose digest is known needs no scan, one with another extension does."""
    _keep(folder, SAFE)
    Path("copy.pt").write_bytes(b"model")
    Path("copy.ckpt").write_bytes(b"model")
    cache = VerdictCache("judge", folder)
    for path in ("copy.pt", "copy.ckpt"):
        cache._new_files[_identity(path)] = "ab" * 32
        cache._new_verdicts.setdefault("something else", dump_report(SAFE))
    cache.close()
    assert _known(folder, "copy.pt") == replace(SAFE, path="copy.pt")
    assert _known(folder, "copy.ckpt") is None


def test_the_digest_is_there_exactly_when_it_is_wanted(folder: str) -> None:
    """A report from the cache has a digest where scanning would have computed it, and nowhere else."""
    _keep(folder, replace(SAFE, digest=None))
    assert _known(folder, with_digest=True) is None
    assert _known(folder, with_digest=False) == replace(SAFE, digest=None)
    _keep(folder, SAFE)
    assert _known(folder, with_digest=True) == SAFE
    assert _known(folder, with_digest=False) == replace(SAFE, digest=None)


def test_another_judge_does_not_know(folder: str) -> None:
    """Under another policy, other options or another modelhub nothing is known."""
    _keep(folder, SAFE, judge=judged_by("1", None))
    assert _known(folder, judge=judged_by("1", None)) == SAFE
    assert _known(folder, judge=judged_by("1+own:0123abcd", None)) is None
    assert _known(folder, judge=judged_by("1", False)) is None


def test_a_changed_modelhub_is_another_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working copy that is edited between two scans does not answer with verdicts from before."""
    Path("code").mkdir()
    Path("code/rule.py").write_text("1")
    monkeypatch.setattr(verdict_cache, "__file__", str(tmp_path / "code" / "verdict_cache.py"))
    before = judged_by("1")
    assert judged_by("1") == before
    os.utime("code/rule.py", ns=(1, 1))
    assert judged_by("1") != before


@pytest.mark.parametrize(
    "report",
    [
        replace(SAFE, coverage=Coverage(False), verdict=Verdict.UNKNOWN),
        replace(SAFE, findings=(Finding("internal.error", Severity.INFO, Confidence.HIGH, "a fault"),)),
        replace(SAFE, findings=(Finding("source.unreadable", Severity.INFO, Confidence.HIGH, "a disk"),)),
        replace(SAFE, findings=(Finding("opinion.failed", Severity.INFO, Confidence.HIGH, "a time-out"),)),
    ],
)
def test_what_might_come_out_otherwise_is_not_kept(folder: str, report: ScanReport) -> None:
    """Incomplete reads, errors and what another program said are not kept."""
    _keep(folder, report)
    assert _known(folder) is None


def test_a_file_that_changes_meanwhile_is_not_kept(folder: str) -> None:
    """A verdict is kept only if the file is after the scan what it was before it."""
    before = _identity()
    Path("model.pt").write_bytes(b"other")
    cache = VerdictCache("judge", folder)
    cache.put("model.pt", before, SAFE)
    cache.put("gone.pt", before, SAFE)
    cache.close()
    assert _known(folder) is None


def test_the_moment_after_a_change_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file changed within the coarseness of a file system's clock could change again unseen: it is not settled."""
    monkeypatch.setattr(verdict_cache, "SETTLED", 2.0)
    identity = identity_of("model.pt")
    assert identity is not None and not identity.is_settled
    past = identity._replace(mtime_ns=identity.mtime_ns - 10**10, ctime_ns=identity.ctime_ns - 10**10)
    assert past.is_settled
    assert not past._replace(ctime_ns=identity.ctime_ns).is_settled
    assert not past._replace(mtime_ns=identity.mtime_ns + 10**13).is_settled


def test_only_regular_files_have_an_identity(tmp_path: Path) -> None:
    """A folder, a FIFO and nothing at all have none."""
    os.mkfifo("pipe")
    assert [identity_of(path) for path in (".", "pipe", "gone", "\0")] == [None] * 4


@pytest.mark.parametrize("damage", [b"", b"not a database" * 100, b"SQLite format 3\0" + bytes(200)])
def test_a_broken_cache_is_dropped_and_made_anew(folder: str, damage: bytes) -> None:
    """A damaged file costs nothing but what it knew: this scan says so, the next has a new one."""
    _keep(folder, SAFE)
    file = Path(folder) / os.listdir(folder)[0]
    file.write_bytes(damage)
    assert _known(folder, note="not used" if damage else None) is None
    _keep(folder, SAFE)
    assert _known(folder) == SAFE


def test_a_damaged_row_is_never_believed(folder: str, database: sqlite3.Connection) -> None:
    """A row whose bytes are not those that were written does not become a verdict."""
    database.execute("UPDATE verdict SET report = replace(report, '\"verdict\":0', '\"verdict\":3')")
    assert _known(folder, note="checksum") is None


@pytest.mark.parametrize(
    "change", ["DROP TABLE file", "ALTER TABLE verdict DROP COLUMN checksum", "UPDATE verdict SET report = x'ff'"]
)
def test_other_tables_and_types(folder: str, database: sqlite3.Connection, change: str) -> None:
    """A cache with other tables, columns or types than ours answers nothing, and raises nothing."""
    database.execute(change)
    cache = VerdictCache("judge", folder)
    assert cache.get("model.pt", _identity(), with_digest=True) is None
    cache.put("model.pt", _identity(), SAFE)
    cache.close()


def test_a_locked_cache_is_left_alone(folder: str, database: sqlite3.Connection) -> None:
    """While another process holds the cache it is not used, which is said; it is not removed."""
    database.execute("BEGIN EXCLUSIVE")
    assert _known(folder, note="locked") is None
    database.execute("ROLLBACK")
    assert _known(folder) == SAFE


def test_a_cache_that_becomes_locked_on_the_way(folder: str, database: sqlite3.Connection) -> None:
    """What cannot be written in the end is lost, and nothing else."""
    cache = VerdictCache("judge", folder)
    assert cache.get("model.pt", _identity(), with_digest=True) == SAFE
    cache.put("model.pt", _identity(), UNSAFE)
    database.execute("BEGIN EXCLUSIVE")
    cache.close()
    assert cache.note is not None
    database.execute("ROLLBACK")
    assert _known(folder) == SAFE


@pytest.mark.skipif(os.name == "nt", reason="there are other permissions there")
def test_a_cache_that_others_can_write_is_not_believed(folder: str) -> None:
    """Who can write the cache could call a file safe: it is used only where nobody else can."""
    _keep(folder, SAFE)
    file = os.path.join(folder, os.listdir(folder)[0])
    assert os.stat(folder).st_mode & 0o77 == 0
    assert os.stat(file).st_mode & 0o77 == 0
    for place in (folder, file):
        mode = os.stat(place).st_mode
        os.chmod(place, 0o777)
        assert _known(folder, note="written by others") is None
        os.chmod(place, mode)
    assert _known(folder) == SAFE


def test_no_place_for_a_cache(tmp_path: Path) -> None:
    """Where the folder cannot be made, there is no cache, and a note."""
    Path("file").write_bytes(b"")
    assert _known(str(tmp_path / "file" / "cache"), note="not used") is None


def test_old_rows_go(folder: str, database: sqlite3.Connection) -> None:
    """What was kept long ago is removed when something new is written."""
    database.execute("UPDATE verdict SET day = 0, key = 'old'")
    _keep(folder, UNSAFE)
    assert database.execute("SELECT count(*) FROM verdict").fetchone() == (1,)
    assert _known(folder) == UNSAFE
