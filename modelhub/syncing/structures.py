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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelhub.container.safetensors import read_safetensors
from modelhub.db.layouts import compact
from modelhub.identify import Observation, identify_observation, stored
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import Told as Beside
from modelhub.identify.side_file import told_beside
from modelhub.source import LocalSource, Source
from modelhub.tensors import StateDict, TensorInfo

_KEPT = 64
"""Lists of tensors that are remembered: the largest take a megabyte each."""
_ANSWERS = 16
"""Identifications that are remembered of one list."""
_LONGEST_METADATA = 1 << 20
_OPENING = b'{"__metadata__":'
_PAIRS = json.JSONDecoder(object_pairs_hook=list)


class Told(NamedTuple):
    """What a file says: its metadata, its identity in plain values, the digest of its layout, and the text of what else
    identification went by."""

    metadata: dict[str, str]
    identity: dict[str, Any]
    layout: str
    observation: str


@dataclass(slots=True)
class _Answer:
    """An identification; the metadata, bytes and side file that it had gone by; and the numbers that these bytes are,
    as :func:`modelhub.db.layouts.compact` says them."""

    asked: dict[str, str | None]
    read: list[tuple[int, int, bytes]]
    beside: Beside | None
    numbers: dict[str, Any]
    identity: dict[str, Any]


class _File(NamedTuple):
    """What one file has to itself: its source, where its tensors' bytes start, its metadata and its side file."""

    source: LocalSource
    start: int
    metadata: Mapping[str, str]
    beside: Beside | None


@dataclass(slots=True)
class _Structure:
    tensors: Mapping[str, TensorInfo]
    start: int
    nbytes: int
    layout: str = ""
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
    """The lists of tensors that one process has seen lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Structure] = OrderedDict()

    def tell(self, source: LocalSource, identity_of: Any, layout_of: Any) -> Told | None:
        """What the safetensors file *source* says; ``None`` where anything is odd about it, or it is no such file.

        *identity_of* makes plain values of an identity and its tensors, *layout_of* the digest of an observation's
        layout: they are called for what has not been seen before.
        """
        length = int.from_bytes(source.read_at(0, 8), "little")
        if not 2 <= length <= source.size - 8 or length > _LONGEST_METADATA * 16:
            return None
        start = 8 + length
        parted = _parted(source.read_at(8, length))
        if parted is None:
            return None
        metadata, rest = parted
        key = hashlib.sha256(rest).digest()
        structure = self._known.get(key)
        if structure is None:
            structure = _learnt(source, metadata, start)
            if structure is None:
                return None
            self._known[key] = structure
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        if source.size != start + structure.nbytes:
            return None
        file = _File(source, start, metadata, told_beside(source.stat.path))
        answer = _fitting(structure, file) or _asked(structure, file, identity_of)
        own = stored(Observation({"": (StateDict({}, metadata=metadata), Probe())}, beside=file.beside))
        own["files"][""] |= answer.numbers
        if not structure.layout:
            full = Observation({"": (StateDict(structure.tensors), Probe())})
            structure.layout = layout_of(stored(full))
        del own["files"][""]["tensors"]
        return Told(metadata, answer.identity, structure.layout, json.dumps(own, separators=(",", ":")))


def _parted(header: bytes) -> tuple[dict[str, str], bytes] | None:
    """The metadata of *header* and the rest of its bytes; ``None`` where there is any doubt which is which."""
    header = header.rstrip(b" ")  # writers fill up to a multiple of eight bytes
    if not header.startswith(_OPENING):
        return ({}, header) if b"__metadata__" not in header and b"\\u005" not in header else None
    end = header.find(b"}", len(_OPENING), _LONGEST_METADATA)
    if end < 0:
        return None
    try:
        text = header[:_LONGEST_METADATA].decode("utf-8", "strict" if len(header) <= _LONGEST_METADATA else "ignore")
        pairs, stop = _PAIRS.raw_decode(text, len(_OPENING))
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs):
        return None
    metadata: dict[str, str] = dict(pairs)
    opening = text[:stop].encode()
    rest = header[len(opening) :]
    surrogates = b"\\ud" in opening or b"\\uD" in opening
    if len(metadata) != len(pairs) or surrogates or b"__metadata__" in rest or b"\\u005" in rest:
        return None
    return metadata, b"," + rest  # unlike a header that has no metadata


def _learnt(source: Source, metadata: Mapping[str, str], start: int) -> _Structure | None:
    container = read_safetensors(source)
    state_dict = container.state_dict
    if state_dict is None or container.anomalies or container.skipped or state_dict.metadata != metadata:
        return None
    return _Structure(state_dict.tensors, start, source.size - start)


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


def _asked(structure: _Structure, file: _File, identity_of: Any) -> _Answer:
    read: list[tuple[int, int, bytes]] = []

    def read_at(offset: int, length: int) -> bytes:
        data = file.source.read_at(offset - structure.start + file.start, length)
        read.append((offset - structure.start, length, data))
        return data

    watched = _Watched(file.metadata)
    probe = Probe(read_at)
    observation = Observation({"": (StateDict(structure.tensors, metadata=watched), probe)}, beside=file.beside)
    identity = identify_observation(observation)
    said = compact({"tensors": [[name] for name in structure.tensors], "numbers": probe.numbers})
    answer = _Answer(watched.asked, read, file.beside, said, identity_of(identity, structure.tensors))
    if not watched.whole:
        structure.answers = [answer, *structure.answers[: _ANSWERS - 1]]
    return answer
