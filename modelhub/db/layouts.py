"""Tensors' names, element types and shapes, kept once for all files that share them.

What identification goes by (:func:`modelhub.identify.stored`) is kept in two parts: the tensors, which the thousand
LoRAs of one trainer have in common and which compress to some kilobytes, and the rest, which is each file's own.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
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
    text = json.dumps({path: file["tensors"] for path, file in files.items()}, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest()
    rest = {path: {key: file[key] for key in file if key != "tensors"} for path, file in files.items()}
    return Parted(
        digest,
        b"" if digest in but_for else zlib.compress(text, 1),
        json.dumps({"files": rest, "configs": observation["configs"]}, separators=(",", ":")),
    )


def joined(packed: bytes, rest: str) -> dict[str, Any]:
    """The observation that :func:`part` took apart."""
    observation: dict[str, Any] = json.loads(rest)
    for path, tensors in json.loads(zlib.decompress(packed)).items():
        observation["files"][path]["tensors"] = tensors
    return observation


def put_layout(connection: Connection, digest: str, packed: bytes) -> int:
    """The id of the layout with *digest*, new or known."""
    known = connection.scalar(select(layout.c.id).where(layout.c.digest == digest))
    if known is not None:
        return known
    key = connection.execute(insert(layout).values(digest=digest, packed=packed)).inserted_primary_key
    assert key is not None
    return int(key[0])
