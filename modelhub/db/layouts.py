"""Tensors' names, element types and shapes, kept once for all files that share them.

What identification goes by (:func:`modelhub.identify.stored`) is kept in two parts: the tensors, which the thousand
LoRAs of one trainer have in common and which compress to some kilobytes, and the rest, which is each file's own.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from modelhub.db.schema import layout


class Parted(NamedTuple):
    """An observation in two parts: ``digest`` is the SHA-256 of the tensors' text, ``packed`` that text, compressed;
    ``rest`` the JSON text of everything else."""

    digest: str
    packed: bytes
    rest: str


def part(observation: Mapping[str, Any], *, but_for: frozenset[str] | set[str] = frozenset()) -> Parted:
    """*observation* in two parts; layouts whose digests are in *but_for* are not packed again."""
    files = observation["files"]
    tensors = {path: file["tensors"] for path, file in files.items()}
    digest, packed = _packed(json.dumps(tensors, separators=(",", ":")), but_for)
    rest = {path: compact(file, [each[0] for each in tensors[path]]) for path, file in files.items()}
    return Parted(digest, packed, json.dumps({**observation, "files": rest}, separators=(",", ":")))


def layout_of(tensors: Iterable[str], *, but_for: frozenset[str] | set[str]) -> tuple[str, bytes]:
    """The digest and the packed text of the layout of one file, as :func:`part` gives them; each of *tensors* is JSON
    text of an array of name, element type and shape."""
    return _packed(f'{{"":[{",".join(tensors)}]}}', but_for)


def _packed(text: str, but_for: frozenset[str] | set[str]) -> tuple[str, bytes]:
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    return digest, b"" if digest in but_for else zlib.compress(data, 1)


def joined(packed: bytes, rest: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The observation that :func:`part` took apart; a file in it whose metadata were left out has *metadata*."""
    observation: dict[str, Any] = json.loads(rest)
    for path, tensors in json.loads(zlib.decompress(packed)).items():
        file = observation["files"][path]
        if file["metadata"] is None:
            file["metadata"] = metadata
        common = file.pop("common")
        ends = [(name, common.get(name.rpartition(".")[2])) for name, *_ in tensors] if common else []
        file["tensors"] = tensors
        file["numbers"] |= {name: value for name, value in ends if value is not None}
    return observation


def compact(file: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A *file* of an observation, whose tensors are called *names*, without these. A number that all tensors with one
    ending have, as a LoRA's thousand alphas do, is said once, in ``common``."""
    told = file["numbers"]
    ends = [name[name.rfind(".") + 1 :] for name in told]
    values = list(dict.fromkeys(zip(ends, told.values(), strict=True)))
    once = Counter([end for end, _ in values])
    common = {end: value for end, value in values if once[end] == 1}
    others = set(names).difference(told) if common else set()
    for end in list(common):
        if end in others or any(map(str.endswith, others, repeat(f".{end}"))):
            del common[end]
    rest = {key: file[key] for key in file if key != "tensors"}
    apart = len(common) < len(once)
    numbers = {name: told[name] for name, end in zip(told, ends, strict=True) if end not in common} if apart else {}
    return {**rest, "numbers": numbers, "common": common}


def put_layout(connection: Connection, digest: str, packed: bytes) -> int:
    """The id of the layout with *digest*, new or known."""
    known = connection.scalar(select(layout.c.id).where(layout.c.digest == digest))
    if known is not None:
        return known
    key = connection.execute(insert(layout).values(digest=digest, packed=packed)).inserted_primary_key
    assert key is not None
    return int(key[0])
