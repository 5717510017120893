"""What files with the same tensors have in common is found out once.

A library's LoRAs come from a handful of trainers: thousands have byte for byte the same list of tensors, and differ in
their metadata and in their numbers. The list is checked and understood the first time. After that a file is compared:
with the list's bytes, and with what the identification had gone by, the metadata it asked for and the bytes it read.
Where all of that is equal its answer would be, too; where anything differs it is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelhub.container.canonical_header import Listing, listed, part, print_of
from modelhub.db.layouts import compact
from modelhub.identify import Identity, Observation, identify_observation, stored
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import Told as Beside
from modelhub.identify.side_file import claimed_beside, told_beside
from modelhub.source import LocalSource
from modelhub.tensor_table import elements_of
from modelhub.tensors import StateDict

_KEPT = 1 << 25
"""Bytes of lists that are remembered, the largest of which have a third of a megabyte."""
_ANSWERS = 16
"""Identifications that are remembered of one list."""
_END = 1 << 10
"""Bytes at the end of a list by which it is looked up; they depend on the sizes of all tensors."""


class Told(NamedTuple):
    """What a file says: the digest of its header, its metadata, its identity as columns of the catalog, the digest of
    its layout, and the text of what else identification went by, but for the metadata."""

    header: str
    metadata: dict[str, str]
    identity: Mapping[str, Any]
    layout: str
    observation: str


class _Answer(NamedTuple):
    """An identification; the metadata, bytes and side file that it had gone by; the numbers that these bytes are."""

    asked: dict[str, str | None]
    read: list[tuple[int, int, bytes]]
    beside: Beside | None
    identity: Mapping[str, Any]
    observation: str


class _File(NamedTuple):
    """What one file has to itself: its source, where its tensors' bytes start, its metadata and its side file."""

    source: LocalSource
    start: int
    metadata: Mapping[str, str]
    beside: Beside | None


@dataclass(slots=True)
class _Structure:
    listing: bytes
    digest: bytes
    nbytes: int
    layout: str
    answers: list[_Answer] = field(default_factory=list)


class _Watched(Mapping[str, str]):
    """Metadata that remembers what it was asked for."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        self.asked: dict[str, str | None] = {}
        self.whole = False

    def __getitem__(self, key: str) -> str:
        self.asked[key] = self._metadata.get(key)
        return self._metadata[key]

    def __iter__(self) -> Iterator[str]:
        self.whole = True
        return iter(self._metadata)

    def __len__(self) -> int:
        self.whole = True
        return len(self._metadata)


class Structures:
    """The lists of tensors that one process has seen lately.

    *columns_of* makes columns of an identity, the number of tensors and that of their elements, *layout_of* the digest
    of the layout of tensors, each of which is JSON text of its name, type and shape: they are called for what has not
    been seen before.
    """

    def __init__(
        self,
        columns_of: Callable[[Identity, int, int], Mapping[str, Any]],
        layout_of: Callable[[Iterable[str]], str],
    ) -> None:
        self._columns_of = columns_of
        self._layout_of = layout_of
        self._known: OrderedDict[tuple[int, bytes], _Structure] = OrderedDict()
        self._nbytes = 0

    def tell(self, source: LocalSource, header: bytes) -> Told | None:
        """What the safetensors file *source* says, whose first eight bytes are followed by *header*; ``None`` where
        anything is odd about it, or it is no such file."""
        parted = part(header)
        if parted is None or claimed_beside(source.stat.path):
            return None
        metadata, begin, end = parted
        start = 8 + len(header)
        key = end - begin, header[max(begin, end - _END) : end]
        structure = self._known.get(key)
        found = None
        if structure is None or not header.startswith(structure.listing, begin):
            listing = header[begin:end]
            found = listed(listing)
            nbytes = found.nbytes if found is not None else None
            if found is None or nbytes is None:
                return None
            digest = hashlib.sha256(listing).digest()
            structure = _Structure(listing, digest, nbytes, self._layout_of(found.said))
            self._keep(key, structure)
        self._known.move_to_end(key)
        if source.size != start + structure.nbytes:
            return None
        file = _File(source, start, metadata, told_beside(source.stat.path))
        answer = _fitting(structure, file)
        if answer is None:
            found = found or listed(structure.listing)
            assert found is not None
            answer = self._asked(structure, found, file)
        told = print_of(header, parted, structure.digest)
        return Told(told, metadata, answer.identity, structure.layout, answer.observation)

    def _keep(self, key: tuple[int, bytes], structure: _Structure) -> None:
        before = self._known.pop(key, None)
        self._known[key] = structure
        self._nbytes += len(structure.listing) - (len(before.listing) if before is not None else 0)
        while self._nbytes > _KEPT and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._nbytes -= len(oldest.listing)

    def _asked(self, structure: _Structure, found: Listing, file: _File) -> _Answer:
        tensors = found.tensors(0)
        read: list[tuple[int, int, bytes]] = []

        def read_at(offset: int, length: int) -> bytes:
            data = file.source.read_at(file.start + offset, length)
            read.append((offset, length, data))
            return data

        watched = _Watched(file.metadata)
        probe = Probe(read_at, sparing=True)
        identity = identify_observation(
            Observation({"": (StateDict(tensors, metadata=watched), probe)}, beside=file.beside)
        )
        own = stored(Observation({"": (StateDict({}), probe)}, beside=file.beside))
        own["files"][""] = {**compact(own["files"][""], tensors), "metadata": None}
        columns = self._columns_of(identity, len(tensors), elements_of(tensors))
        answer = _Answer(watched.asked, read, file.beside, columns, json.dumps(own, separators=(",", ":")))
        if not watched.whole:
            structure.answers = [answer, *structure.answers[: _ANSWERS - 1]]
        return answer


def _fitting(structure: _Structure, file: _File) -> _Answer | None:
    """The answer that another file had got for the same metadata, bytes and side file."""
    for answer in structure.answers:
        if (
            answer.beside == file.beside
            and all(file.metadata.get(key) == value for key, value in answer.asked.items())
            and file.source.holds(file.start, answer.read)
        ):
            return answer
    return None
