"""Where ``torch.save`` puts the members of an archive: all of it follows from their names and sizes.

Source: torch 2.13, ``serialization.py`` (``_save``: the order of the members) and ``caffe2/serialize/
inline_container.cc`` (``PyTorchStreamWriter``: padding, descriptors, what stands at the end). Members are stored and
padded by an extra field ``FB`` so that their data begins at a multiple of the alignment; sizes follow the data, but
where there is none; what does not fit into 32 bits is in zip64 fields. Storages stand in the order of their numbers
since ``.format_version`` does, before in that of their keys as text; ``byteorder`` and ``.data/serialization_id`` came
together (torch 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from modelhub.container.zip_walk import LOCAL

_LIMIT = 0xFFFFFFFF  # sizes and offsets from here on are written in zip64 fields
_ENTRY, _ENDS = 46, 56 + 20 + 22  # a directory entry without its name; both end records and the locator
_FORMAT, _BYTEORDER = ".format_version", "byteorder"


class Placed(NamedTuple):
    """A member: where its header begins, its data begins, and its data ends."""

    name: str
    header: int
    start: int
    end: int


class Layout(NamedTuple):
    """All members in order, and the size of the whole file."""

    members: tuple[Placed, ...]
    size: int


def checkpoint_layout(
    top: str, pickle: int, between: Sequence[tuple[str, int]], storages: Mapping[str, int], alignment: int = 64
) -> Layout:
    """The archive of a pickle of *pickle* bytes and *storages* (bytes by key) below the folder *top*.

    *between* are the members, with their sizes, between the pickle and the storages.
    """
    names = {name for name, _ in between}
    keys = sorted(storages, key=(lambda key: (len(key), key)) if _FORMAT in names else None)
    after = [("version", 2), *([(".data/serialization_id", 40)] if _BYTEORDER in names else [])]
    members = [("data.pkl", pickle), *between, *((f"data/{key}", storages[key]) for key in keys), *after]
    return _laid_out(((top + name, size) for name, size in members), alignment)


def _laid_out(members: Iterable[tuple[str, int]], alignment: int) -> Layout:
    placed: list[Placed] = []
    position = directory = 0
    for name, size in members:
        length = len(name.encode("utf-8", "surrogateescape"))
        large, far = size >= _LIMIT, position >= _LIMIT
        wide = (4 + 16 * large + 8 * far) if large or far else 0
        start = position + LOCAL.size + length + wide + 4
        start += -start % alignment
        placed.append(Placed(name, position, start, start + size))
        directory += _ENTRY + length + wide
        position = start + size
        if size:
            position += 24 if large or far else 16
    return Layout(tuple(placed), position + directory + _ENDS)
