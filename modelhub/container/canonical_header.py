"""A safetensors header as nearly every writer writes it, read in less than half the time that reading JSON takes.

``{"__metadata__":{...},"name":{"dtype":"F16","shape":[320,768],"data_offsets":[0,491520]},...}``: the metadata first or
not at all, no white space but padding at the end, no escapes outside the metadata. What is written in any other way,
or says anything that is not plainly so, is not read here: it is ``None``, and a matter for the reader of JSON in
:mod:`modelhub.container.safetensors`. Where there is an answer it is that reader's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise, repeat
from operator import ge
from typing import Any, NamedTuple

from modelhub.tensors import DTYPE_BY_LABEL, DType, StorageRef, TensorInfo

_LONGEST = 2_000_000
"""Bytes of a header that is read here: the reader of JSON refuses as many marks, and counts them in what is longer."""

_LONGEST_FORM = 256
"""Characters of a shape or a type that are kept as read once; no tensor has so many dimensions."""

_USUAL = 1 << 14
"""Bytes in which metadata usually end: nobody needs the others as text to find that out."""

_OPENING = '{"__metadata__":'
_PAIRS = json.JSONDecoder(object_pairs_hook=list)
_COUNT = "(?:0|[1-9][0-9]{0,17})"  # below 2 ** 63
_SHAPE = re.compile(rf":\[((?:{_COUNT}(?:,{_COUNT})*)?)\],")
_OFFSETS = re.compile(rf":\[({_COUNT}),({_COUNT})\]\}},")
_CONTROL = re.compile(r"[\x00-\x1f]")

_BETWEEN = {2: ":{", 3: "dtype", 4: ":", 6: ",", 7: "shape", 9: "data_offsets"}
"""Of the ten pieces that the quotes of ``"name":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},`` part an entry into,
those that are the same in each; 1 is the name, 5 the type, 8 the shape, 10 the offsets."""


class Form(NamedTuple):
    """Element type and shape of a tensor, and the bytes that it takes."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


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
    opened = _opened(header[:_USUAL]) or _opened(header)
    if opened is None:
        return None
    text, pairs, stop = opened
    if text[len(_OPENING)] != "{" or not all(isinstance(value, str) for _, value in pairs):
        return None
    metadata: dict[str, str] = dict(pairs)
    opening = text[:stop]
    if len(metadata) != len(pairs) or ("\\u" in opening and not _is_unicode(metadata)):
        return None
    cut = stop if opening.isascii() else len(opening.encode())
    if cut == end - 1:
        return Parted(metadata, header[cut:end])
    return Parted(metadata, header[cut + 1 : end]) if header[cut : cut + 2] == b',"' else None


def _opened(header: bytes) -> tuple[str, list[tuple[str, Any]], int] | None:
    """The text of *header*, the pairs of its metadata and where these end; ``None`` where they do not."""
    try:
        text = header.decode()
        pairs, stop = _PAIRS.raw_decode(text, len(_OPENING))
    except (ValueError, RecursionError):
        return None
    return text, pairs, stop


def tensors_of(listing: bytes, start: int) -> list[TensorInfo] | None:
    """The tensors that *listing* lists, in the order of their bytes, the first of which would lie at *start*."""
    if listing == b"}":
        return []
    try:
        text = listing.decode()
    except UnicodeDecodeError:
        return None
    number = text.count('":{"dtype":"')
    if not number or text.count('"') != 10 * number or "\\" in text or not text.endswith("}}"):
        return None
    pieces = (text[:-1] + ",").split('"')
    if pieces[0] or any(pieces[place::10].count(piece) != number for place, piece in _BETWEEN.items()):
        return None
    names = pieces[1::10]
    at_once = "".join(names)
    if len(set(names)) != number or "__metadata__" in names:
        return None
    if not at_once.isprintable() and _CONTROL.search(at_once):
        return None
    said = list(zip(pieces[5::10], pieces[8::10], strict=True))
    forms = {each: form for each in set(said) if max(map(len, each)) <= _LONGEST_FORM and (form := _form(*each))}
    if len(forms) != len(set(said)):
        return None
    dtypes, shapes, sizes = zip(*map(forms.__getitem__, said), strict=True)
    begins = _begins(pieces[10::10], sizes)
    if begins is None:
        return None
    starts = map(start.__add__, begins)
    storages = map(_storage, zip(names, starts, sizes, *_AS_IT_LIES, strict=False))
    tensors = list(map(_tensor, zip(names, dtypes, shapes, storages, *_PLAINLY, strict=False)))
    if any(map(ge, begins, begins[1:])):
        tensors.sort(key=lambda tensor: tensor.storage[1:3])
    return tensors


_storage = partial(tuple.__new__, StorageRef)
_tensor = partial(tuple.__new__, TensorInfo)
_AS_IT_LIES = [repeat(default) for default in StorageRef._field_defaults.values()]
_PLAINLY = [repeat(default) for default in TensorInfo._field_defaults.values()]


def _begins(offsets: list[str], sizes: Sequence[int]) -> list[int] | None:
    """Where the tensors of *sizes* begin; ``None`` where one of the *offsets* is not plainly of as many bytes."""
    ends = list(accumulate(sizes, initial=0))
    if ends[-1] < 1 << 63 and offsets == [f":[{begin},{end}]}}," for begin, end in pairwise(ends)]:
        return ends[:-1]
    begins = []
    for text, size in zip(offsets, sizes, strict=True):
        match = _OFFSETS.fullmatch(text)
        if match is None or int(match[2]) - int(match[1]) != size:
            return None
        begins.append(int(match[1]))
    return begins


@lru_cache(maxsize=1 << 12)
def _form(label: str, sizes: str) -> Form | None:
    """The form of the tensors of the type *label* and the shape *sizes*; ``None`` where there are none."""
    dtype, match = DTYPE_BY_LABEL.get(label), _SHAPE.fullmatch(sizes)
    if dtype is None or not dtype.storable or match is None:
        return None
    shape = tuple(map(int, match[1].split(","))) if match[1] else ()
    bits = dtype.bits
    for size in shape:
        bits *= size
        if bits > 1 << 66:
            return None
    return Form(dtype, shape, bits // 8) if bits % 8 == 0 else None


def _is_unicode(metadata: Mapping[str, str]) -> bool:
    """Whether none of the pairs has a lone surrogate, which JSON escapes allow and UTF-8 does not."""
    try:
        "".join(part for pair in metadata.items() for part in pair).encode()
    except UnicodeEncodeError:
        return False
    return True
