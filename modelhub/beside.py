"""What stands beside a model that is taken in: it is taken down with it, and goes with it into a library."""

from __future__ import annotations

import os
import stat as stat_module
from bisect import bisect_left
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from modelhub.db import Catalog, SideFileBatch, SideFileRead
from modelhub.placing import copy
from modelhub.reidentifying import reidentify_beside
from modelhub.sidefiles import ModelFile
from modelhub.sidefiles.naming import beside, beside_target, is_configuration
from modelhub.sidefiles.reading import read_side_file
from modelhub.source.resolve import is_model_name

_OF_THESE_BYTES = ("checksum",)
"""Dialects that say nothing of what a model was converted to."""


class SideFile(NamedTuple):
    """A side file of a model, which is called as :class:`ModelFile` says."""

    path: str
    dialect: str
    file: ModelFile
    size: int
    mtime_ns: int


class Surroundings:
    """What stands beside models, each folder listed once, and what the catalog is told of it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._names: dict[str, list[str]] = {}

    def of(self, path: str) -> list[SideFile]:
        """The side files of the file, or the folder that is one model, at *path*."""
        folder, name = os.path.split(os.path.abspath(path))
        is_folder = os.path.isdir(path)
        near = [*self._near(folder, name if is_folder else os.path.splitext(name)[0])]
        models = dict.fromkeys(each for each in near if each == name or is_model_name(each))
        others = [each for each in near if each not in models]
        told = beside(others, () if is_folder else models, (name,) if is_folder else ())
        found = []
        for each in told:
            if name not in each.models:
                continue
            try:
                st = os.stat(os.path.join(folder, each.name))
                size = None if is_folder else os.stat(path).st_size
            except OSError:
                continue
            if stat_module.S_ISREG(st.st_mode):
                file = ModelFile(name, size, alone=len(each.models) == 1)
                found.append(SideFile(os.path.join(folder, each.name), each.dialect, file, st.st_size, st.st_mtime_ns))
        return found

    def _near(self, folder: str, stem: str) -> Iterator[str]:
        """The names in *folder* that begin with *stem*."""
        names = self._names.get(folder)
        if names is None:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            self._names[folder] = names
        return takewhile(lambda name: name.startswith(stem), names[bisect_left(names, stem) :])

    def forget(self, path: str) -> None:
        """Have the folder of *path*, in which something has appeared, listed again."""
        self._names.pop(os.path.dirname(os.path.abspath(path)), None)

    def copy(self, path: str, target: str, *, converted: bool) -> None:
        """Have copies of the side files of *path* beside *target*, which it was put into a library as. What is there
        already stays as it is. Raises what copying raises."""
        name = os.path.basename(os.path.abspath(path))
        self.forget(target)
        for each in self.of(path):
            if converted and each.dialect in _OF_THESE_BYTES:
                continue
            there = beside_target(os.path.basename(each.path), name, os.path.abspath(target))
            if not os.path.lexists(there):
                copy(each.path, there)

    def take_down(self, path: str) -> int:
        """Write down what stands beside the recorded model at *path* and what it claims; the number of its side files.

        What the catalog knows already is not read again.
        """
        path = os.path.abspath(path)
        here = self.of(path)
        place = next(iter(self._catalog.libraries.at([path])), None)
        if place is None:  # what several files were made of, each of them recorded
            return 0
        known = self._catalog.side_files.around(path, place.content_id)
        own = {each.path: each for each in known if each.model == path and each.content_id == place.content_id}
        left = [each for each in known if each.model is None or each.content_id != each.model_content]
        read = []
        for each in here:
            before = own.pop(each.path, None)
            if before is None or (before.size, before.mtime_ns) != (each.size, each.mtime_ns):
                read.append(_read(each, path, place.content_id, place.root_id, before.id if before else None))
        gone = [*own.values()]
        if read or left or gone:
            self._catalog.side_files.write(SideFileBatch(read, left, gone))
        changed = [each.path for each in read] + [each.path for each in gone]
        if any(is_configuration(each, path) for each in changed):
            reidentify_beside(self._catalog, {place.content_id: path})
        return len(here)


def _read(side: SideFile, model: str, content_id: int, root_id: int | None, known: int | None) -> SideFileRead:
    told = read_side_file(side.path, side.dialect, side.file)
    return SideFileRead(
        content_id=content_id,
        root_id=root_id,
        path=side.path,
        model=model,
        size=side.size,
        mtime_ns=side.mtime_ns,
        dialect=told.dialect,
        claims=told.claims.as_dict(),
        problem=told.problem,
        media_type=told.media_type,
        known=known,
    )
