"""A safetensors header as nearly every writer writes it, read in a third of the time that reading JSON takes.

``{"__metadata__":{...},"name":{"dtype":"F16","shape":[320,768],"data_offsets":[0,491520]},...}``: the metadata first or
not at all, no white space but padding at the end, no escapes outside the metadata. What is written in any other way,
or says anything that is not plainly so, is not read here: it is ``None``, and a matter for the reader of JSON in
:mod:`modelhub.container.safetensors`. Where there is an answer it is that reader's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from modelhub.tensors import DTYPE_BY_LABEL, DType, StorageRef, TensorInfo

_LONGEST = 1 << 22
"""Bytes of a header that is read here; what is longer is counted before it is read."""

_OPENING = '{"__metadata__":'
_PAIRS = json.JSONDecoder(object_pairs_hook=list)
_COUNT = "(?:0|[1-9][0-9]{0,17})"  # below 2 ** 63
_ENTRY = re.compile(
    r'"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+)",'
    rf'"shape":\[((?:{_COUNT}(?:,{_COUNT})*)?)\],"data_offsets":\[({_COUNT}),({_COUNT})\]\}}(?:,(?=")|\}}\Z)'
)
_AROUND = len('"":{"dtype":"","shape":[],"data_offsets":[,]},')


class Parted(NamedTuple):
    """A header's metadata, and the bytes that list its tensors: the same for all files with these tensors."""

    metadata: dict[str, str]
    listing: bytes


def part(header: bytes) -> Parted | None:
    """*header* in its two parts, the second one not yet looked at; ``None`` where there is any doubt which is which."""
    if len(header) > _LONGEST:
        return None
    end = len(header)
    while end and header[end - 1] == 0x20:  # writers fill up to a multiple of eight bytes
        end -= 1
    if not header.startswith(_OPENING.encode()):
        return Parted({}, header[1:end]) if header[:1] == b"{" else None
    try:
        text = header.decode()
        pairs, stop = _PAIRS.raw_decode(text, len(_OPENING))
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs):
        return None
    metadata: dict[str, str] = dict(pairs)
    opening = text[:stop]
    if len(metadata) != len(pairs) or ("\\u" in opening and not _is_unicode(metadata)):
        return None
    cut = stop if opening.isascii() else len(opening.encode())
    if cut == end - 1:
        return Parted(metadata, header[cut:end])
    return Parted(metadata, header[cut + 1 : end]) if header[cut : cut + 2] == b',"' else None


def tensors_of(listing: bytes, start: int) -> list[TensorInfo] | None:
    """The tensors that *listing* lists, in the order of their bytes, the first of which would lie at *start*."""
    if listing == b"}":
        return []
    try:
        text = listing.decode()
    except UnicodeDecodeError:
        return None
    rows: list[tuple[int, int, str, DType, tuple[int, ...]]] = []
    forms: dict[tuple[str, str], tuple[DType, tuple[int, ...], int] | None] = {}
    read = 0
    for name, label, sizes, first, last in _ENTRY.findall(text):
        read += len(name) + len(label) + len(sizes) + len(first) + len(last) + _AROUND
        if (label, sizes) not in forms:
            forms[label, sizes] = _form(label, sizes)
        form = forms[label, sizes]
        begin = int(first)
        if form is None or int(last) - begin != form[2]:
            return None
        rows.append((begin, form[2], name, form[0], form[1]))
    names = {row[2] for row in rows}
    if not rows or read != len(text) or len(names) != len(rows) or "__metadata__" in names:
        return None
    rows.sort(key=lambda row: row[:2])
    return [
        TensorInfo(name, dtype, shape, StorageRef(name, start + begin, nbytes))
        for begin, nbytes, name, dtype, shape in rows
    ]


def _form(label: str, sizes: str) -> tuple[DType, tuple[int, ...], int] | None:
    """Element type, shape and bytes of a tensor; ``None`` where there is no such tensor."""
    dtype = DTYPE_BY_LABEL.get(label)
    if dtype is None or not dtype.storable:
        return None
    shape = tuple(map(int, sizes.split(","))) if sizes else ()
    bits = dtype.bits
    for size in shape:
        bits *= size
        if bits > 1 << 66:
            return None
    return (dtype, shape, bits // 8) if bits % 8 == 0 else None


def _is_unicode(metadata: Mapping[str, str]) -> bool:
    """Whether none of the pairs has a lone surrogate, which JSON escapes allow and UTF-8 does not."""
    try:
        "".join(part for pair in metadata.items() for part in pair).encode()
    except UnicodeEncodeError:
        return False
    return True
