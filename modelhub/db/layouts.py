"""Tensors' names, element types and shapes, kept once for all files that share them.

A layout's text has a line ``name TAB dtype TAB sizes`` for each tensor, in file order; a name's own tabs, line feeds
and backslashes are escaped. It is kept compressed: a LoRA's 800 tensors take some 4 kB.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from modelhub.db.schema import layout
from modelhub.tensors import TensorInfo

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})
_MEANINGS = {"\\\\": "\\", "\\t": "\t", "\\n": "\n"}


class Layout(NamedTuple):
    """A layout's text, compressed, and the SHA-256 of the text before that."""

    digest: str
    packed: bytes


def layout_of(tensors: Iterable[TensorInfo]) -> Layout:
    """The layout of *tensors*."""
    text = "\n".join(
        f"{_escaped(each.name)}\t{each.dtype.label}\t{','.join(map(str, each.shape))}" for each in tensors
    ).encode("utf-8", "surrogatepass")
    return Layout(hashlib.sha256(text).hexdigest(), zlib.compress(text, 1))


def tensors_of(packed: bytes) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, element type's label and shape of each tensor."""
    import re

    text = zlib.decompress(packed).decode("utf-8", "surrogatepass")
    for line in text.split("\n") if text else ():
        name, dtype, sizes = line.split("\t")
        name = re.sub(r"\\[\\tn]", lambda match: _MEANINGS[match[0]], name)
        yield name, dtype, tuple(map(int, sizes.split(","))) if sizes else ()


def _escaped(name: str) -> str:
    return name.translate(_ESCAPES) if "\\" in name or "\t" in name or "\n" in name else name


def put_layout(connection: Connection, digest: str, packed: bytes) -> int:
    """The id of the layout with *digest*, new or known."""
    known = connection.scalar(select(layout.c.id).where(layout.c.digest == digest))
    if known is not None:
        return known
    key = connection.execute(insert(layout).values(digest=digest, packed=packed)).inserted_primary_key
    assert key is not None
    return int(key[0])
