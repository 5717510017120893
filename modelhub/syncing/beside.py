"""What stands beside the models of one folder, from the same listing that the models were found by."""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from modelhub.db import LibraryRoot, Seen
from modelhub.sidefiles import ModelFile
from modelhub.sidefiles.naming import beside, is_side_file_name


class SeenBeside(NamedTuple):
    """A side file as a walk found it, and the model beside which it stands."""

    path: str
    dialect: str
    size: int
    mtime_ns: int
    root_id: int
    model: str
    file: ModelFile


def beside_models(
    entries: Sequence[os.DirEntry[str]], models: Sequence[Seen], root: LibraryRoot
) -> Iterator[SeenBeside]:
    """Those of a folder's *entries* that are side files of its *models*; each costs a stat, all others none."""
    sizes = {os.path.basename(model.path): model for model in models}
    named = {entry.name: entry for entry in entries if entry.name not in sizes and is_side_file_name(entry.name)}
    folders = [name for name, model in sizes.items() if model.is_folder]
    files = [name for name, model in sizes.items() if not model.is_folder]
    for found in beside(named, files, folders) if named else ():
        entry = named[found.name]
        try:
            st = entry.stat(follow_symlinks=root.follow_links)
        except OSError:
            continue
        if stat_module.S_ISREG(st.st_mode):
            for name in found.models:
                model = sizes[name]
                file = ModelFile(name, model.size, alone=len(found.models) == 1)
                yield SeenBeside(entry.path, found.dialect, st.st_size, st.st_mtime_ns, root.id, model.path, file)


def beside_folders(entries: Iterable[os.DirEntry[str]], folders: set[str]) -> list[os.DirEntry[str]]:
    """Those of *entries* that would stand beside one of *folders*, names in the same folder, if that is one model."""
    return [entry for entry in entries if is_side_file_name(entry.name) and not folders.isdisjoint(_stems(entry.name))]


def _stems(name: str) -> Iterator[str]:
    while dot := max(name.rfind("."), 0):
        name = name[:dot]
        yield name
