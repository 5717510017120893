"""Which disk a file lies on, and how many readers that disk bears at once."""

from __future__ import annotations

import os
from typing import NamedTuple

_BLOCK_DEVICES = "/sys/dev/block"
_PROCESSORS_A_READER = 4
"""Digests of one file keep about so many processors busy."""
_MOST = 8


class Disk(NamedTuple):
    """A disk by a name of its own; ``spins`` is ``None`` where nobody says."""

    name: str
    spins: bool | None

    @property
    def readers(self) -> int:
        """How many files may be read from it at once, to the end.

        One where it spins, for between two its head would go to and fro (a third of the speed and less), and where that
        is not known, as of network shares; as many as there are processors for where it does not.
        """
        return 1 if self.spins is not False else max(1, min(_MOST, (os.cpu_count() or 1) // _PROCESSORS_A_READER))


def disk_of(device: int) -> Disk:
    """The disk that the file system *device* (``st_dev``) lies on, partitions of one being one disk, as Linux tells."""
    if not hasattr(os, "major"):
        return Disk(str(device), None)
    path = os.path.realpath(os.path.join(_BLOCK_DEVICES, f"{os.major(device)}:{os.minor(device)}"))
    if os.path.exists(os.path.join(path, "partition")):
        path = os.path.dirname(path)
    try:
        with open(os.path.join(path, "queue", "rotational"), encoding="ascii") as file:
            return Disk(path, file.read().strip() != "0")
    except (OSError, ValueError):
        return Disk(str(device), None)
