"""The names that are taken in a library, now and once what is planned is done."""

from __future__ import annotations

import os
from collections.abc import Sequence

from modelhub.organising.naming import folded


class Names:
    """What lies in the folders of the library *root*, each listed once, as file systems without case tell names apart;
    a library may come to lie on one."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._listed: dict[str, dict[str, list[str]]] = {}

    def of(self, folder: str) -> list[str]:
        """The names in *folder*, none where there is no such folder."""
        return [name for alike in self._names(folder).values() for name in alike]

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            names = self._listed[folder] = {}
            try:
                for name in sorted(os.listdir(folder)):
                    names.setdefault(folded(name), []).append(name)
            except OSError:
                pass
        return self._listed[folder]

    def spelled(self, folders: Sequence[str], name: str) -> str | None:
        """The path of *name* in *folders* below the library, folders that are there spelt as they are; ``None`` where
        one of them is a file."""
        path = self.root
        for folder in folders:
            alike = self._names(path).get(folded(folder), [folder])
            path = os.path.join(path, folder if folder in alike else alike[0])
            if os.path.lexists(path) and not os.path.isdir(path):
                return None
        return os.path.join(path, name)

    def taken(self, path: str) -> bool:
        """Whether *path*, or one that is the same without case, is there."""
        return folded(os.path.basename(path)) in self._names(os.path.dirname(path))

    def move(self, source: str, target: str) -> None:
        """Let *source* have become *target*."""
        folder, name = os.path.split(source)
        before = self._names(folder)
        before[folded(name)] = [each for each in before.get(folded(name), ()) if each != name]
        if not before[folded(name)]:
            del before[folded(name)]
        folder, name = os.path.split(target)
        self._names(folder).setdefault(folded(name), []).append(name)
        while folder != self.root:  # folders that are made for it
            folder, name = os.path.split(folder)
            if name not in self._names(folder).setdefault(folded(name), []):
                self._names(folder)[folded(name)].append(name)
