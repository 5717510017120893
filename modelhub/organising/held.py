"""Which models stay where they are, wherever their names would have them go."""

from __future__ import annotations

import os
from functools import cache

from modelhub.db import Holding
from modelhub.errors import ModelHubError
from modelhub.intake import stat_of
from modelhub.organising.names_there import Names
from modelhub.placing import is_inside

_PARTS = ("config.json", "adapter_config.json", "model_index.json")
"""Files that say that their folder is one model, in several files."""


class Held:
    """What is held in the library of *names*. Each folder is looked into once, however many models lie in it."""

    def __init__(self, names: Names) -> None:
        self.lies_inside = cache(lambda folder: is_inside(folder, names.root))
        """Whether *folder* lies in the library, links followed."""
        self._part_in = cache(lambda folder: next(filter(_is_part, names.of(folder)), None))

    def why(self, model: Holding) -> str | None:
        """Why *model* stays; ``None`` where it may go."""
        place = model.place
        folder = os.path.dirname(place.path)
        if model.link:
            return "a symbolic link"
        if model.linked:
            return "a symbolic link leads to it"
        if not self.lies_inside(folder):
            return "a link to its folder leads out of the library"
        try:
            stat = stat_of(place.path)
        except ModelHubError:
            return "it cannot be seen"
        if (stat.size, stat.mtime_ns) != (place.size, place.mtime_ns):
            return "it has changed since the last sync"
        if not place.is_folder and (part := self._part_in(folder)) is not None:
            return f"one of several files that are one model: there is {part}"
        return None


def _is_part(name: str) -> bool:
    return name in _PARTS or name.endswith(".index.json")
