"""The cache in which huggingface_hub keeps what it downloads, as one thing to look through: each content once.

A repository is a folder ``models--OWNER--NAME`` (``datasets--``, ``spaces--``, ``kernels--``). Its ``snapshots`` have a
folder for each commit, whose files are links to ``blobs``; a blob may be a link itself, to the ``blobs`` of the whole
cache, where Xet's files are kept for all repositories. Where links cannot be made, snapshots hold the files. What is
being downloaded is called ``*.incomplete``; ``refs`` say which commits branches were, ``.no_exist`` which files there
are none of (huggingface_hub 2.4, ``file_download.py``, ``utils/_cache_manager.py``, ``utils/_shared_blobs.py``).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat as stat_module
from collections.abc import Iterator

from modelhub.errors import MissingExtra, NotFound, SourceError
from modelhub.source.address import HUB
from modelhub.source.resolve import Found, cannot_be_listed, find_sources, is_model_name, is_one_model, listing_of

_REPOSITORY = re.compile(r"(models|datasets|spaces|kernels)--(.+)")
_CACHED = re.compile(r"(models|datasets|spaces|kernels)--([^/]+)/snapshots/([^/]+)(?:/(.*))?", re.DOTALL)
_SHARED = ".huggingface-shared-blobs"
"""The file that makes ``blobs`` the store of the whole cache."""

_NO_BLOBS = (".refs", ".lock", ".incomplete", ".tmp")
_COMMIT = 40
"""Characters of a commit, which is all that a file below ``refs`` has."""

Inode = tuple[int, int]


def default_cache() -> str:
    """Where huggingface_hub keeps its cache: ``HF_HUB_CACHE``, ``HF_HOME`` and their like mean what they mean to it."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise MissingExtra("huggingface_hub, which knows where its cache is,", "hub") from error
    return constants.HF_HUB_CACHE


class HubCache:
    """The cache in *folder*, or in its ``hub`` where it is an ``HF_HOME``.

    ``incomplete`` counts the downloads that were not finished, once :meth:`find` has come to its end.
    """

    def __init__(self, folder: str) -> None:
        below = os.path.join(folder, "hub")
        self.folder = below if os.path.isdir(below) and not _repositories(folder) else folder
        self.incomplete = 0
        self._seen: dict[Inode, bool] = {}  # with whether its name was a model's
        self._models: set[bytes] = set()

    def find(self) -> Iterator[Found | SourceError]:
        """Everything in the cache, in a stable order, by the path that it is opened by.

        A folder that is one model is one thing, once for all revisions that have the same files. Of other contents each
        comes once, whatever number of revisions and repositories have it, by a name that says that it is a model if it
        has one. Blobs that no revision has come last. What cannot be had is its error, a link without its blob too.
        """
        if not os.path.isdir(self.folder):
            yield NotFound(f"{self.folder}: no Hugging Face cache is there", path=self.folder)
            return
        repositories = _repositories(self.folder)
        for repository in repositories:
            yield from self._repository(repository)
        for repository in repositories:
            yield from self._unlinked(os.path.join(repository, "blobs"))
        yield from self._others(set(repositories))

    def address_of(self, path: str) -> str:
        """What the file or folder *path* is called on the Hub: ``hf://OWNER/NAME@COMMIT/PATH``, with a slash at a
        folder's end; *path* itself where no revision has it."""
        found = _CACHED.fullmatch(path.removeprefix(os.path.join(self.folder, "")).replace(os.sep, "/"))
        if found is None or not path.startswith(self.folder):
            return path
        kind, repository, commit, below = found.groups()
        slash = "/" if below and os.path.isdir(path) else ""
        of_kind = "" if kind == "models" else f"{kind}/"
        return f"{HUB}{of_kind}{repository.replace('--', '/')}@{commit}/{below or ''}{slash}"

    def _repository(self, repository: str) -> Iterator[Found | SourceError]:
        loose: dict[Inode, Found] = {}
        for snapshot in _snapshots(repository):
            waiting = [snapshot]
            while waiting:
                folder = waiting.pop()
                try:
                    entries = listing_of(folder)
                except SourceError as error:
                    yield error
                    continue
                if is_one_model(entries):
                    hidden: list[str] = []
                    if self._is_new(folder, hidden):
                        yield Found(folder, is_folder=True)
                    waiting += hidden
                    continue
                waiting += reversed([entry.path for entry in entries if entry.is_dir(follow_symlinks=False)])
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        continue
                    found = Found(entry.path, expected=is_model_name(entry.name))
                    inode = _inode_of(entry.path)
                    if inode is not None:
                        if inode not in loose or (found.expected and not loose[inode].expected):
                            loose[inode] = found
                    elif found.expected:
                        name = self.address_of(entry.path)
                        yield NotFound(f"{name}: its bytes are not in the cache: a link that leads nowhere", path=name)
        for inode, found in loose.items():
            before = self._seen.get(inode)
            if before is None or (found.expected and not before):
                self._seen[inode] = found.expected
                yield found

    def _is_new(self, folder: str, hidden: list[str]) -> bool:
        """Whether no folder of the same files has been found; the *hidden* folders in it are no part of it."""
        files = hashlib.sha256()
        for place, below, names in os.walk(folder):
            hidden += [os.path.join(place, name) for name in below if name.startswith(".")]
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                path = os.path.join(place, name)
                inode = _inode_of(path)
                files.update(os.fsencode(f"{os.path.relpath(path, folder)}\0{inode}\n"))
                if inode is not None:
                    self._seen[inode] = True
        digest = files.digest()
        is_new = digest not in self._models
        self._models.add(digest)
        return is_new

    def _unlinked(self, blobs: str) -> Iterator[Found | SourceError]:
        """The blobs in the folder *blobs* that no revision has; counts those that are incomplete."""
        try:
            names = sorted(os.listdir(blobs))
        except FileNotFoundError:
            return
        except OSError as error:
            yield cannot_be_listed(blobs, error)
            return
        for name in names:
            path = os.path.join(blobs, name)
            self.incomplete += name.endswith(".incomplete")
            inode = _inode_of(path)
            if inode is not None and inode not in self._seen and not name.endswith(_NO_BLOBS):
                self._seen[inode] = False
                yield Found(path, expected=False)

    def _others(self, repositories: set[str]) -> Iterator[Found | SourceError]:
        """What lies in the cache beside its repositories: the blobs of all of them, and what is not the cache's."""
        try:
            entries = listing_of(self.folder)
        except SourceError as error:
            yield error
            return
        for entry in entries:
            if entry.path in repositories or entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield Found(entry.path, expected=is_model_name(entry.name))
            elif entry.name == "blobs" and os.path.isfile(os.path.join(entry.path, _SHARED)):
                for prefix in range(256):
                    yield from self._unlinked(os.path.join(entry.path, f"{prefix:02x}"))
            else:
                yield from find_sources([entry.path], every_file=True)


def _repositories(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(each.path for each in entries if _REPOSITORY.fullmatch(each.name) and each.is_dir())
    except OSError:
        return []


def _snapshots(repository: str) -> list[str]:
    """The folders of the revisions: what ``main`` is first, then those of other branches, then the rest."""
    named: dict[str, str] = {}
    refs = os.path.join(repository, "refs")
    for place, _, names in os.walk(refs):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.isfile(path):  # a FIFO would never answer
                continue
            try:
                with open(path, encoding="ascii", errors="replace") as file:
                    commit = file.read(_COMMIT + 1).strip()
            except OSError:
                continue
            reference = os.path.relpath(path, refs)
            named[commit] = min(reference, named.get(commit, reference), key=lambda each: (each != "main", each))
    snapshots = os.path.join(repository, "snapshots")
    try:
        with os.scandir(snapshots) as entries:
            commits = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    commits.sort(key=lambda commit: (commit not in named, named.get(commit) != "main", named.get(commit, ""), commit))
    return [os.path.join(snapshots, commit) for commit in commits]


def _inode_of(path: str) -> Inode | None:
    """What tells the content of the file that *path* leads to; ``None`` for what leads to none."""
    try:
        st = os.stat(path)
    except OSError:
        return None
    return (st.st_dev, st.st_ino) if stat_module.S_ISREG(st.st_mode) else None
