"""Whose a file is that several libraries lead to: ComfyUI's settings name the folders of other programs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from modelhub.db import LibraryRoot
from modelhub.source.layouts import folders_of
from modelhub.syncing.walk import Walk


def leave_to_owners(found: Walk, root: LibraryRoot, libraries: Sequence[LibraryRoot]) -> list[str]:
    """Take out of what was *found* in *root* what lies outside its folder and is another's of the *libraries*: of the
    one whose folder it lies in, else of the one that was followed first. Returns the paths outside that stay."""
    outside = [file.path for file in found.seen if not _inside(file.path, root.path)]
    if not outside:
        return []
    others = [
        (folder, _inside(folder, other.path) or folder == other.path or other.id < root.id)
        for other in libraries
        if other.id != root.id
        for folder in folders_of(other.path, other.dialect)
    ]
    theirs = {path for path in outside if any(first and _inside(path, folder) for folder, first in others)}
    found.seen = [file for file in found.seen if file.path not in theirs]
    found.beside = [file for file in found.beside if file.model not in theirs]
    return [path for path in outside if path not in theirs]


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)
