"""Everything that lies in a library, by a stat each."""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelhub.db import LibraryRoot, Seen
from modelhub.errors import ModelHubError
from modelhub.source.layouts import folders_of
from modelhub.source.resolve import is_entered, is_model_name, is_one_model
from modelhub.syncing.beside import SeenBeside, beside_folders, beside_models


@dataclass(slots=True)
class Walk:
    """What a walk found, and where it could not look. ``beside`` are the small files that stand beside models.

    ``device`` and ``inode`` are the library folder's own; ``devices`` those of every folder that was entered;
    ``closed`` the folders that could not be listed, ``dangling`` links that lead nowhere, as paths. ``is_there`` is
    false where the library itself could not be listed.
    """

    is_there: bool = True
    device: int = 0
    inode: int = 0
    seen: list[Seen] = field(default_factory=list)
    devices: set[int] = field(default_factory=set)
    beside: list[SeenBeside] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)


def walk(root: LibraryRoot) -> Walk:
    """Look at everything in *root* that has a model's extension, and at folders that are one model.

    Links are followed where the library says so, each folder but once however many links lead to it; links to files
    come after the files themselves.
    """
    found = Walk()
    try:
        st = os.stat(root.path)
        found.device, found.inode = st.st_dev, st.st_ino
        with os.scandir(root.path):
            pass
    except OSError:
        found.is_there = False
        return found
    been: set[tuple[int, int]] = set()
    taken: set[str] = set()
    for folder in folders_of(root.path, root.dialect):
        linked = [folder]
        while linked:  # folders behind links come last, so that files go by their own path where they have one
            linked = list(_below(linked, root, found, been, taken))
    return found


def _below(
    folders: list[str], root: LibraryRoot, found: Walk, been: set[tuple[int, int]], taken: set[str]
) -> Iterator[str]:
    """Look into *folders* and all below; yields the folders that links lead to."""
    waiting = list(reversed(folders))
    around: dict[str, list[os.DirEntry[str]]] = {}
    while waiting:
        folder = waiting.pop()
        try:
            st = os.stat(folder)
            if (st.st_dev, st.st_ino) in been:
                continue
            been.add((st.st_dev, st.st_ino))
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            found.closed.append(folder)
            continue
        found.devices.add(st.st_dev)
        names = {entry.name for entry in entries}
        if folder != root.path and is_one_model(entries):
            first = len(found.seen)
            _take_folder(folder, root, found)
            if aside := around.get(os.path.dirname(folder)):
                found.beside += beside_models(aside, found.seen[first:], root)
            continue
        below = []
        first = len(found.seen)
        for entry in entries:
            try:
                if entry.is_symlink():
                    if root.follow_links:
                        yield from _link(entry, root, found, taken)
                elif entry.is_dir(follow_symlinks=False):
                    if is_entered(entry, names):
                        below.append(entry.path)
                elif is_model_name(entry.name) and entry.path not in taken:
                    st = entry.stat(follow_symlinks=False)
                    if stat_module.S_ISREG(st.st_mode):
                        taken.add(entry.path)
                        found.seen.append(Seen(entry.path, st.st_size, st.st_mtime_ns, st.st_dev, st.st_ino, root.id))
            except OSError:
                found.closed.append(entry.path)
        here = found.seen[first:]
        if here and len(here) < len(entries):
            found.beside += beside_models(entries, here, root)
        if below:
            around[folder] = beside_folders(entries, {os.path.basename(each) for each in below})
        waiting += sorted(below, reverse=True)


def _link(entry: os.DirEntry[str], root: LibraryRoot, found: Walk, taken: set[str]) -> Iterator[str]:
    try:
        st = os.stat(entry.path)
    except OSError:
        if is_model_name(entry.name):
            found.dangling.append(entry.path)
        return
    if stat_module.S_ISDIR(st.st_mode):
        if not entry.name.startswith("."):
            yield entry.path
    elif stat_module.S_ISREG(st.st_mode) and is_model_name(entry.name) and entry.path not in taken:
        taken.add(entry.path)
        found.seen.append(Seen(entry.path, st.st_size, st.st_mtime_ns, st.st_dev, st.st_ino, root.id, "symlink"))


def _take_folder(folder: str, root: LibraryRoot, found: Walk) -> None:
    from modelhub.intake import stat_of

    try:
        st = stat_of(folder)
    except ModelHubError:
        found.closed.append(folder)
        return
    found.seen.append(Seen(folder, st.size, st.mtime_ns, st.dev, st.ino, root.id, is_folder=True))
