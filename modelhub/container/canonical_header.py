"""A safetensors header as nearly every writer writes it, read in a fraction of the time that reading JSON takes.

``{"__metadata__":{...},"name":{"dtype":"F16","shape":[320,768],"data_offsets":[0,491520]},...}``: the metadata first or
not at all, no white space but padding at the end, no escapes outside the metadata. What is written in any other way,
or says anything that is not plainly so, is not read here: it is ``None``, and a matter for the reader of JSON in
:mod:`modelhub.container.safetensors`. Where there is an answer it is that reader's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from operator import add
from typing import Any, NamedTuple

from modelhub.kept import Kept
from modelhub.tensor_table import Form, TensorTable
from modelhub.tensors import DTYPE_BY_LABEL

_LONGEST = 2_000_000
"""Bytes of a header that is read here: the reader of JSON refuses as many marks, and counts them in what is longer."""

_LONGEST_KEPT = 512
"""Characters of a name, or of a type and shape, that are kept as read once; models' have a third of it."""

_USUAL = 1 << 14
"""Bytes in which metadata usually end: nobody needs the others as text to find that out."""

_OPENING = '{"__metadata__":'
_PAIRS = json.JSONDecoder(object_pairs_hook=list)
_COUNT = "(?:0|[1-9][0-9]{0,17})"  # below 2 ** 63
_NAME = re.compile(r'[^"\\\x00-\x1f]*')
_FORM = re.compile(rf'([A-Z0-9_]*)","shape":\[((?:{_COUNT}(?:,{_COUNT})*)?)')
_OFFSETS = re.compile(rf"({_COUNT}),({_COUNT})")


class Listing(NamedTuple):
    """The tensors of a header in the order of their bytes: the name and the form of each, and where it begins, counted
    from the first byte. ``said`` is JSON text of an array of name, type and shape for each; ``nbytes`` are those of all
    tensors together, where they lie one after the other, and ``None`` where they do not."""

    names: Sequence[str]
    forms: Sequence[Form]
    begins: Sequence[int]
    said: Sequence[str]
    nbytes: int | None

    def tensors(self, start: int) -> TensorTable:
        """The tensors, where the first byte of them all lies at *start*."""
        starts = list(map(start.__add__, self.begins)) if start else self.begins
        return TensorTable(self.names, self.forms, starts)

    def sorted(self) -> Listing:
        """The same tensors, which are not in the order of their bytes, in it."""
        order = sorted(range(len(self.names)), key=lambda place: (self.begins[place], self.forms[place].nbytes))
        forms, begins = [self.forms[place] for place in order], [self.begins[place] for place in order]
        ends = list(accumulate([form.nbytes for form in forms], initial=0))
        return Listing(
            [self.names[place] for place in order],
            forms,
            begins,
            [self.said[place] for place in order],
            ends[-1] if begins == ends[:-1] else None,
        )


class Parted(NamedTuple):
    """A header's metadata, and where the bytes begin and end that list its tensors: the same bytes for all files with
    these tensors."""

    metadata: dict[str, str]
    begin: int
    end: int


def part(header: bytes) -> Parted | None:
    """*header* in its two parts, the second one not yet looked at; ``None`` where there is any doubt which is which."""
    if len(header) > _LONGEST:
        return None
    end = len(header)
    while end and header[end - 1] == 0x20:  # writers fill up to a multiple of eight bytes
        end -= 1
    if not header.startswith(_OPENING.encode()):
        return Parted({}, 1, end) if header[:1] == b"{" else None
    opened = _opened(header[:_USUAL]) or _opened(header)
    if opened is None:
        return None
    text, pairs, stop = opened
    if text[len(_OPENING)] != "{" or not {type(value) for _, value in pairs} <= {str}:
        return None
    metadata: dict[str, str] = dict(pairs)
    opening = text[:stop]
    if len(metadata) != len(pairs) or ("\\u" in opening and not _is_unicode(metadata)):
        return None
    cut = stop if opening.isascii() else len(opening.encode())
    if cut == end - 1:
        return Parted(metadata, cut, end)
    return Parted(metadata, cut + 1, end) if header[cut : cut + 2] == b',"' else None


def _opened(header: bytes) -> tuple[str, list[tuple[str, Any]], int] | None:
    """The text of *header*, the pairs of its metadata and where these end; ``None`` where they do not."""
    try:
        text = header.decode()
        pairs, stop = _PAIRS.raw_decode(text, len(_OPENING))
    except (ValueError, RecursionError):
        return None
    return text, pairs, stop


def print_of(header: bytes, parted: Parted | None, listing: bytes | None = None) -> str:
    """SHA-256, in hex, of the length of *header*, of what it says before its list of tensors, of that list's SHA-256
    and of what is behind it. *listing* is the list's where it is known: thousands of files have the same.

    Where *header* cannot be parted it is the SHA-256 of the length and of the header as it is.
    """
    digest = hashlib.sha256(len(header).to_bytes(8, "little"))
    if parted is None:
        digest.update(header)
    else:
        digest.update(header[: parted.begin])
        digest.update(listing or hashlib.sha256(memoryview(header)[parted.begin : parted.end]).digest())
        digest.update(header[parted.end :])
    return digest.hexdigest()


def listed(listing: bytes) -> Listing | None:
    """What *listing* lists; ``None`` where it is not plainly a list of tensors."""
    if listing == b"}":
        return Listing([], [], [], [], 0)
    try:
        text = listing.decode()
    except UnicodeDecodeError:
        return None
    first, *others = text[:-3].split('":{"dtype":"')
    if not others or not text.endswith("]}}") or first[:1] != '"':
        return None
    forms, _, rests = zip(*map(str.partition, others, repeat('],"data_offsets":[')), strict=True)
    offsets, marks, nexts = zip(*map(str.partition, rests, repeat(']},"')), strict=True)
    if marks[-1] or marks.count("") != 1:
        return None
    try:
        names, quoted = zip(*map(_known_names.__getitem__, (first[1:], *nexts[:-1])), strict=True)
        forms, tails, sizes = zip(*map(_known_forms.__getitem__, forms), strict=True)
    except ValueError:
        return None
    if len(set(names)) != len(names):
        return None
    ends = list(accumulate(sizes, initial=0))
    said: list[str] = list(map(add, quoted, tails))
    if ends[-1] < 1 << 63 and offsets == tuple(map(",".join, pairwise(list(map(str, ends))))):
        return Listing(names, forms, ends[:-1], said, ends[-1])
    begins = list(map(_begin, offsets, sizes))
    return None if min(begins) < 0 else Listing(names, forms, begins, said, None).sorted()


def _begin(offsets: str, nbytes: int) -> int:
    """Where the tensor of *nbytes* with these *offsets* begins; -1 where they are not plainly of as many bytes."""
    match = _OFFSETS.fullmatch(offsets)
    return int(match[1]) if match is not None and int(match[2]) - int(match[1]) == nbytes else -1


def _name(text: str) -> tuple[str, str]:
    """A tensor's name, and the beginning of the JSON text of its array. Raises :class:`ValueError` for what is not
    plainly a name."""
    if _NAME.fullmatch(text) is None or text == "__metadata__":
        raise ValueError("not plainly a name")
    return text, f"[{json.encoder.encode_basestring_ascii(text)},"


def _form(text: str) -> tuple[Form, str, int]:
    """The form that *text*, ``F16","shape":[320,768``, tells, the end of the JSON text of its tensor's array, and its
    bytes. Raises :class:`ValueError` for what is not plainly one."""
    match = _FORM.fullmatch(text)
    dtype = DTYPE_BY_LABEL.get(match[1]) if match is not None else None
    if match is None or dtype is None or not dtype.storable:
        raise ValueError("not plainly a form")
    shape = tuple(map(int, match[2].split(","))) if match[2] else ()
    bits = dtype.bits
    for size in shape:
        bits *= size
        if bits > 1 << 66:
            raise ValueError("more elements than can be counted")
    if bits % 8:
        raise ValueError("not of whole bytes")
    return Form(dtype, shape, bits // 8), f'"{match[1]}",[{match[2]}]]', bits // 8


# Files of one trainer have most of their names in common, and all files most of their forms.
_known_names = Kept(_name, 1 << 15, lambda text: len(text) <= _LONGEST_KEPT)
_known_forms = Kept(_form, 1 << 12, lambda text: len(text) <= _LONGEST_KEPT)


def _is_unicode(metadata: Mapping[str, str]) -> bool:
    """Whether none of the pairs has a lone surrogate, which JSON escapes allow and UTF-8 does not."""
    try:
        "".join(part for pair in metadata.items() for part in pair).encode()
    except UnicodeEncodeError:
        return False
    return True
