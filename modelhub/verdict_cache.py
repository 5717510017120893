"""Verdicts of files that have not changed since they were judged: a library scanned again costs next to nothing.

Two tables of one small SQLite file in the user's cache folder. ``file`` maps what the file system says of a file
(device, inode, size, times of modification and of change) to its digest, so that unchanged bytes are not even opened.
``verdict`` maps the digest (or, of a large file whose digest was not asked for, that identity itself), together with
the policy, modelhub's own code and the name's extension, to the report.

The cache can only ever save work. It is not asked where its file could have been written by another user; a row counts
only with its checksum; a report that is not complete, or that holds another program's opinion, is not kept; nor is one
of a file that was changed a moment ago, since its times might not tell the next change. Whatever goes wrong with it is
told once in ``note``, and the scan goes on without it.
"""

from __future__ import annotations

import hashlib
import os
import stat as stat_module
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from modelhub.source import Digest

if TYPE_CHECKING:
    import sqlite3

    from modelhub.scan import ScanReport

SETTLED = 2.0
"""Seconds that must lie between a file's last change and its examination: the coarsest clock of a file system (FAT)."""
KEPT_DAYS = 90
_LONGEST = 1 << 16
_BATCH = 256
_WAIT = 0.25
_NAME = "verdicts-1.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (identity TEXT PRIMARY KEY, sha256 TEXT NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdict (key TEXT PRIMARY KEY, report TEXT NOT NULL, checksum BLOB NOT NULL,
                                    day INTEGER NOT NULL) WITHOUT ROWID;
"""


class FileIdentity(NamedTuple):
    """What a file system says of a regular file.

    Nobody can set the time of the last change (``ctime``) back, so equal values mean equal bytes; on Windows, where
    that is the time of creation, they do unless somebody takes care to deceive.
    """

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def __str__(self) -> str:
        return ":".join(map(str, self))

    @property
    def is_settled(self) -> bool:
        """Whether a change from now on would be seen in the times; to be asked at once."""
        return max(self.mtime_ns, self.ctime_ns) < time.time_ns() - SETTLED * 1e9


def identity_of(path: str) -> FileIdentity | None:
    """The identity of the regular file *path*, ``None`` for what is none or cannot be had."""
    try:
        st = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat_module.S_ISREG(st.st_mode):
        return None
    return FileIdentity(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def cache_folder(environ: Mapping[str, str] = os.environ) -> str:
    """Where the cache lies: ``platformdirs.user_cache_dir("modelhub", appauthor=False)``, without its modules."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        base = environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
        return os.path.join(base, "modelhub", "Cache")
    if sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = environ.get("XDG_CACHE_HOME", "").strip() or os.path.join(home, ".cache")
    return os.path.join(base, "modelhub")


class VerdictCache:
    """The verdicts given before; what is new is written in batches, the last when it is closed.

    *judge* names all that a verdict depends on beside the file: see :func:`judged_by`. ``note`` is a sentence about
    why the cache is no longer in use, ``None`` while it is.
    """

    def __init__(self, judge: str, folder: str | None = None) -> None:
        self.note: str | None = None
        self._judge = judge
        self._path = os.path.join(folder or cache_folder(), _NAME)
        self._database: sqlite3.Connection | None = None
        self._new_files: dict[FileIdentity, str] = {}
        self._new_verdicts: dict[str, str] = {}
        with self._dropped_on_failure():
            self._database = _open(self._path)

    def get(self, path: str, identity: FileIdentity, *, with_digest: bool) -> ScanReport | None:
        """The report on the file *path*, which is *identity* now; ``None`` where it is not known.

        It is the one that examining the file again would give, the digest of its bytes in it or not.
        """
        with self._dropped_on_failure():
            if self._database is None:
                return None
            row = self._database.execute("SELECT sha256 FROM file WHERE identity = ?", (str(identity),)).fetchone()
            sha256: str | None = None if row is None else row[0]
            if sha256 is None and with_digest:
                return None
            text = sha256 and self._stored(self._key(path, identity, sha256))
            text = text or self._stored(self._key(path, identity, None))
            if not text:
                return None
            from modelhub.scan.stored import load_report

            digest = Digest(sha256) if sha256 is not None and with_digest else None
            report = replace(load_report(text), path=path, digest=digest)
            return report if identity_of(path) == identity else None
        return None

    def put(self, path: str, identity: FileIdentity, report: ScanReport) -> None:
        """Keep *report* on the file *path*, if it is one to keep.

        *identity* is what the file was, and settled, before it was opened; nothing is kept if it is not that any more.
        """
        if self._database is None or not _is_kept(report) or identity_of(path) != identity:
            return
        from modelhub.scan.stored import dump_report

        sha256 = None if report.digest is None else report.digest.sha256
        text = dump_report(replace(report, path="", digest=None))
        if len(text) > _LONGEST:
            return
        if sha256 is not None:
            self._new_files[identity] = sha256
        self._new_verdicts[self._key(path, identity, sha256)] = text
        if len(self._new_verdicts) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is new, in one short transaction."""
        files, self._new_files = self._new_files, {}
        verdicts, self._new_verdicts = self._new_verdicts, {}
        with self._dropped_on_failure():
            if self._database is None or not verdicts:
                return
            today = int(time.time() // 86400)
            with self._database as database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany(
                    "INSERT OR REPLACE INTO file VALUES (?, ?, ?)",
                    [(str(identity), sha256, today) for identity, sha256 in files.items()],
                )
                database.executemany(
                    "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?)",
                    [(key, text, _checksum(key, text), today) for key, text in verdicts.items()],
                )
                for table in ("file", "verdict"):
                    database.execute(f"DELETE FROM {table} WHERE day < ?", (today - KEPT_DAYS,))  # noqa: S608

    def close(self) -> None:
        """Write what is new, and be done."""
        self.flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _key(self, path: str, identity: FileIdentity, sha256: str | None) -> str:
        extension = os.path.splitext(path)[1].lower()
        return "\n".join((f"sha256:{sha256}" if sha256 else f"file:{identity}", self._judge, ascii(extension)))

    def _stored(self, key: str) -> str | None:
        assert self._database is not None
        row = self._database.execute("SELECT report, checksum FROM verdict WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        text, checksum = row
        if checksum != _checksum(key, text):
            raise ValueError("a row of it does not fit its checksum")
        assert isinstance(text, str)
        return text

    def _dropped_on_failure(self) -> _Dropping:
        return _Dropping(self)

    def drop(self, error: BaseException) -> None:
        """Go on without the cache because of *error*; what is broken, and not merely in use, is removed."""
        import sqlite3

        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None
        self.note = f"the cache of verdicts is not used: {error}"
        busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
        if isinstance(error, (sqlite3.DatabaseError, ValueError)) and not busy:
            with suppress(OSError):
                os.unlink(self._path)


class _Dropping:
    """A ``with`` block whose failure costs the cache and nothing else."""

    def __init__(self, cache: VerdictCache) -> None:
        self._cache = cache

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._cache.drop(error)
        return True


def judged_by(policy_version: str, *circumstances: object) -> str:
    """A text that is another one whenever the same bytes might be judged otherwise.

    *circumstances* are the options that bear on the verdict. modelhub's own part is its version and the sizes and times
    of its own files, so that a change in a working copy counts as well.
    """
    from modelhub import __version__

    files = hashlib.sha256()
    for folder, folders, names in os.walk(os.path.dirname(__file__)):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            st = os.stat(os.path.join(folder, name))
            files.update(f"{name}\0{st.st_size}\0{st.st_mtime_ns}\n".encode())
    return f"{__version__} {files.hexdigest()[:16]} {policy_version} {circumstances!r}"


def _is_kept(report: ScanReport) -> bool:
    """Whether the same bytes would get the same report again, whatever else happens on the machine."""
    outside = ("source.", "internal.", "opinion.")
    return report.coverage.complete and not any(finding.rule.startswith(outside) for finding in report.findings)


def _checksum(key: str, text: str) -> bytes:
    return hashlib.sha256(f"{key}\0{text}".encode()).digest()[:12]


def _open(path: str) -> Any:
    """The database at *path*, made where there is none; refused where another user could have written it."""
    import sqlite3

    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for place in (folder, path):
        _refuse_foreign(place)
    if not os.path.lexists(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _refuse_foreign(path: str) -> None:
    if not hasattr(os, "geteuid") or not os.path.exists(path):
        return
    st = os.stat(path)
    if st.st_uid != os.geteuid() or st.st_mode & 0o022:
        raise PermissionError(f"{path} may be written by others")
