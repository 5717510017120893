"""Converting many files: each checkpoint that a folder leads to, several at a time, and none twice.

What is no checkpoint (safetensors files, other formats) is left alone. A file that fails, or that is not safe, is told,
and the rest goes on. Run again, it does what is left to do: a journal in the user's cache folder knows which sources
were converted to which targets by what the file system says of both; where it does not know, a target that is there
already is compared with what would be written.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from modelhub import __version__, termination
from modelhub.container import open_path
from modelhub.container.sniff import HEAD, sniff
from modelhub.convert import Conversion, ConversionOptions, ConversionPlan, convert, default_target
from modelhub.convert.options import written_options
from modelhub.errors import AlreadyThere, ModelHubError, NothingToConvert, SourceError, UnsafeModelError, WouldOverwrite
from modelhub.source import Found, find_sources, open_local
from modelhub.verdict_cache import FileIdentity, cache_folder, identity_of

Progress = Callable[[int], None]

_NO_CHECKPOINTS = frozenset({"safetensors", "gguf", "onnx", "hdf5", "numpy", "zip", "tar", "7z", "rar"})
_FIRST_BYTES = frozenset({"zip", "tar", "torch-legacy", "pickle", "unknown"})
_AHEAD = 4  # files that are waiting for each that is being converted
_NAME = "conversions-1.jsonl"
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one file.

    ``action``: ``converted``, ``would convert``, ``already converted`` (before, and both sides unchanged since),
    ``left alone`` (no checkpoint, or without tensors), ``refused`` (not safe) or ``failed``. ``target`` is what was, or
    would be, made of it; ``done`` the conversion, or with a dry run its plan; ``error`` why not.
    """

    path: str
    action: str
    target: str | None = None
    done: Conversion | ConversionPlan | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """How each file is converted: the keywords of :func:`modelhub.convert.convert`."""

    options: ConversionOptions
    receipt: bool = False
    digests: bool = False
    delete_source: bool = False
    force: bool = False
    salvage: bool = False
    dry_run: bool = False

    @property
    def fingerprint(self) -> str:
        """What two requests that write the same have in common."""
        how = {"version": __version__, "receipt": self.receipt, "salvage": self.salvage}
        return json.dumps(how | written_options(self.options), sort_keys=True)


def convert_all(
    root: str,
    target: str | None,
    request: BatchRequest,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Generator[BatchResult, None, None]:
    """Convert what *root*, a folder, a pattern or a file, leads to; one result for each file, in their order.

    Each is written beside its source, or to the same place below the folder *target*. *jobs* files are converted at a
    time. *progress* is told bytes as they are written, from several threads.
    """
    run = _Batch(root, target, request, progress)
    pool = ThreadPoolExecutor(jobs)
    pending: deque[Future[BatchResult]] = deque()
    try:
        for found in find_sources([root]):
            rival = run.rival(found)
            with termination.held():
                pending.append(pool.submit(run.take, found, rival))
            if len(pending) >= _AHEAD * jobs:
                yield termination.result(pending.popleft())
        while pending:
            yield termination.result(pending.popleft())
    finally:
        run.stopped.set()
        pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """The run was given up."""


class _Batch:
    """One run of :func:`convert_all`."""

    def __init__(self, root: str, target: str | None, request: BatchRequest, progress: Progress | None) -> None:
        self.stopped = threading.Event()
        self._root = root if os.path.isdir(root) else os.path.dirname(root)
        self._target = target
        self._request = request
        self._progress = progress
        self._journal = Journal(request.fingerprint)
        self._lock = threading.Lock()
        self._taken: dict[str, str] = {}

    def rival(self, found: Found | SourceError) -> str | None:
        """The file before this one that has the same target, ``None`` without one; to be asked of each in turn."""
        if isinstance(found, SourceError) or (not found.is_folder and not _may_be_checkpoint(found.path)):
            return None
        other = self._taken.setdefault(os.path.abspath(self._expected(found.path)), found.path)
        return other if other != found.path else None

    def take(self, found: Found | SourceError, rival: str | None) -> BatchResult:
        """Convert one file, unless a *rival* has its target; whatever goes wrong with it is its result."""
        if isinstance(found, SourceError):
            return BatchResult(found.path or "", "failed", error=found)
        path = found.path
        try:
            return self._convert(path, rival)
        except NothingToConvert as error:
            return BatchResult(path, "left alone", error=error)
        except _Stopped as error:
            return BatchResult(path, "failed", error=error)
        except ModelHubError as error:
            return BatchResult(path, "refused" if isinstance(error, UnsafeModelError) else "failed", error=error)
        except Exception as error:  # a fault of ours must not keep the other files from being converted
            message = f"{path}: modelhub failed on this file, please report it: {type(error).__name__}: {error}"
            return BatchResult(path, "failed", error=ModelHubError(message))

    def _below(self, path: str) -> str | None:
        """The folder that what becomes of *path* is put into, ``None`` for its own."""
        if self._target is None:
            return None
        relative = os.path.relpath(os.path.dirname(path) or ".", self._root or ".")
        return os.path.join(self._target, "" if relative == "." else relative, "")

    def _expected(self, path: str) -> str:
        folder = os.path.isdir(path) and self._request.options.layout != "ldm"
        return default_target(path, self._below(path), folder=folder)

    def _convert(self, path: str, rival: str | None) -> BatchResult:
        request = self._request
        with open_path(path) as container:
            if container.kind in _NO_CHECKPOINTS and (request.options.changes_nothing or self._target is None):
                return BatchResult(path, "left alone")
        below, expected = self._below(path), self._expected(path)
        if rival is not None:
            raise WouldOverwrite(f"{path}: {expected} is also the target of {rival}", hint="convert it to another name")
        if not request.force and self._journal.knows(path, expected):
            return BatchResult(path, "already converted", expected)
        before = identity_of(path)
        try:
            done = convert(
                path,
                below,
                options=request.options,
                delete_source=request.delete_source,
                force=request.force,
                salvage=request.salvage,
                dry_run=request.dry_run,
                digests=request.digests,
                receipt=request.receipt,
                resume=True,
                progress=self._tell,
                on_verify=self._go_on,
            )
        except AlreadyThere:
            self._journal.add(before, expected)
            return BatchResult(path, "already converted", expected)
        if not isinstance(done, Conversion):
            return BatchResult(path, "would convert", default_target(path, below, folder=done.is_folder), done)
        self._journal.add(before, done.target)
        return BatchResult(path, "converted", done.target, done)

    def _go_on(self, _count: int) -> None:
        if self.stopped.is_set():
            raise _Stopped("given up")

    def _tell(self, count: int) -> None:
        self._go_on(count)
        if self._progress is not None:
            with self._lock:
                self._progress(count)


def _may_be_checkpoint(path: str) -> bool:
    """Whether *path* begins as a checkpoint may begin, so that it has a claim to its target's name."""
    with suppress(ModelHubError), open_local(path) as source:
        return sniff(source.read_at(0, HEAD), source.size) in _FIRST_BYTES
    return False


class Journal:
    """What was converted to what, as lines of JSON in the user's cache folder; losing it costs a comparison each.

    A conversion counts while source and target are, by all that the file system says of them, what they were when it
    was done in the way *how*.
    """

    def __init__(self, how: str, folder: str | None = None) -> None:
        self._how = how
        self._path = os.path.join(folder or cache_folder(), _NAME)
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str], str] = {}
        with suppress(OSError):
            if os.path.getsize(self._path) > _LARGEST:
                os.unlink(self._path)
        with suppress(OSError), open(self._path, encoding="utf-8", errors="replace") as file:
            for text in file:
                self._read(text)

    def _read(self, text: str) -> None:
        with suppress(ValueError, LookupError, TypeError):
            line: Mapping[str, Any] = json.loads(text)
            if line["how"] == self._how:
                self._made[str(line["source"]), str(line["target"])] = str(line["made"])

    def knows(self, source: str, target: str) -> bool:
        """Whether *target* was made of *source*, and neither has changed since."""
        of, made = identity_of(source), identity_of(target)
        return of is not None and made is not None and self._made.get((str(of), os.path.abspath(target))) == str(made)

    def add(self, source: FileIdentity | None, target: str) -> None:
        """Note that *target* is what was made of the file of the identity *source*, taken before it was read.

        Not of one that changed a moment before: its times might not tell the next change.
        """
        made = identity_of(target)
        if source is None or made is None or not source.is_settled:
            return
        place = os.path.abspath(target)
        line = {"how": self._how, "source": str(source), "target": place, "made": str(made)}
        with self._lock, suppress(OSError):
            self._made[str(source), place] = str(made)
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
