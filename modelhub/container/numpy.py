"""NumPy's array files (``.npy``): a short text header, and then the elements, or a pickle of objects.

Source: ``numpy/lib/_format_impl.py`` of numpy 2.4 (format versions 1.0, 2.0, 3.0). The header is believed only in the
form that numpy writes; it is never evaluated.
"""

from __future__ import annotations

import re
from typing import Literal

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting
from modelhub.container.programs import acts, read_programs
from modelhub.source import Source
from modelhub.tensors import DTYPE_BY_LABEL, DType, Leftover, StateDict, StorageRef, TensorInfo

_MAX_HEADER = 1 << 16
_MAX_RANK = 64
_HEADER = re.compile(
    r"\{'descr': (?P<descr>.+), 'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>[0-9L, ]*)\), \} *\n"
)
_PLAIN = re.compile(r"'(?P<order>[<>|=])(?P<kind>[?biufcSUVmM])(?P<size>[0-9]{1,9})(?:\[[0-9]*[A-Za-z]+\])?'")
_OBJECTS = re.compile(r"'[|<>=]?O[0-9]*'")
_FIELD = re.compile(
    r"\('(?:[^'\\]|\\.)*', "
    r"'(?P<order>[<>|=])(?P<kind>[?biufcSUVmM])(?P<size>[0-9]{1,9})'(?:, \((?P<shape>[0-9, ]*)\))?\)"
)
_TYPES = {"b1": "BOOL", "i": "I", "u": "U", "f": "F", "c": "C"}


class _Refused(Exception):
    """The header is not one that numpy writes."""


def read_numpy(source: Source, nesting: Nesting) -> Container:
    """Open an ``.npy`` file: its array as the tensor ``array``, or the pickle of its objects traced."""
    major = (source.read_at(6, 1) or b"\0")[0]
    width = 2 if major == 1 else 4
    length = int.from_bytes(source.read_at(8, width), "little")
    start = 8 + width + length
    if major not in (1, 2, 3) or length > _MAX_HEADER or start > source.size:
        return _not_understood(source, "its header is too long, cut off, or of an unknown version", 8 + width, nesting)
    raw = source.read_at(8 + width, length)
    try:
        header = _HEADER.fullmatch(raw.decode("utf-8" if major == 3 else "latin-1"))
        if header is None:
            raise _Refused
        descr, fortran = header["descr"], header["fortran"] == "True"
        shape = _shape(header["shape"].replace("L", ""))  # Python 2 writes (3L, 4L)
        if _OBJECTS.search(descr):
            return _objects(source, start, nesting)
        itemsize = _itemsize(descr)
    except (_Refused, UnicodeDecodeError):
        return _not_understood(source, "its header is not in the form that numpy writes", start, nesting)
    numel = 1
    for size in shape:
        numel *= size
    nbytes = numel * itemsize
    anomalies: tuple[Anomaly, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    if start + nbytes > source.size:
        message = f"the file is cut off: {start + nbytes - source.size} bytes are missing"
        anomalies = (Anomaly("numpy.truncated", message, offset=source.size),)
    elif start + nbytes < source.size:
        message = f"{source.size - start - nbytes} bytes follow the array"
        anomalies = (Anomaly("numpy.trailing-bytes", message, offset=start + nbytes),)
        skipped = (Skipped("the bytes after the array were not examined"),)
    state_dict = _state_dict(descr, shape, fortran, start, nbytes)
    return Container("numpy", source.name, source, state_dict, anomalies=anomalies, skipped=skipped)


def _shape(text: str) -> tuple[int, ...]:
    """``3,`` or ``3, 4`` or nothing, as ``repr`` writes the inside of a tuple."""
    sizes = tuple(int(part) for part in text.split(",") if part.strip().isdecimal() and len(part) < 21)
    if ", ".join(map(str, sizes)) + ("," if len(sizes) == 1 else "") != text or len(sizes) > _MAX_RANK:
        raise _Refused
    return sizes


def _itemsize(descr: str) -> int:
    """Bytes of one element, whose type is plain or a flat record of plain ones."""
    plain = _PLAIN.fullmatch(descr)
    if plain is not None:
        return _bytes_of(plain)
    if not (descr.startswith("[(") and descr.endswith(")]")):
        raise _Refused
    total = 0
    position = 1
    while position < len(descr) - 1:
        field = _FIELD.match(descr, position)
        if field is None:
            raise _Refused
        count = 1
        for size in _shape(field["shape"]) if field["shape"] else ():
            count *= size
        total += count * _bytes_of(field)
        position = field.end()
        if descr.startswith(", ", position):
            position += 2
        elif position != len(descr) - 1:
            raise _Refused
    return total


def _bytes_of(plain: re.Match[str]) -> int:
    return int(plain["size"]) * (4 if plain["kind"] == "U" else 1)


def _dtype(descr: str) -> tuple[DType, Literal["little", "big"]] | None:
    """The element type that tensors have too, and its byte order; ``None`` where they have no such."""
    plain = _PLAIN.fullmatch(descr)
    if plain is None or plain["order"] == "=" or "[" in descr:
        return None
    kind, size = plain["kind"], int(plain["size"])
    label = _TYPES.get(f"{kind}{size}") or f"{_TYPES.get(kind, '?')}{8 * size}"
    dtype = DTYPE_BY_LABEL.get(label)
    return None if dtype is None else (dtype, "big" if plain["order"] == ">" else "little")


def _state_dict(descr: str, shape: tuple[int, ...], fortran: bool, start: int, nbytes: int) -> StateDict:
    known = _dtype(descr)
    if known is None:
        return StateDict({}, leftovers=(Leftover("array", f"a NumPy array of {descr:.80}", unread=True),))
    dtype, byteorder = known
    strides: tuple[int, ...] | None = None
    if fortran and sum(size > 1 for size in shape) > 1:
        step = 1
        columns: list[int] = []
        for size in shape:
            columns.append(step)
            step *= max(1, size)
        strides = tuple(columns)
    storage = StorageRef("array", start, nbytes, byteorder)
    return StateDict({"array": TensorInfo("array", dtype, shape, storage, strides=strides)})


def _objects(source: Source, start: int, nesting: Nesting) -> Container:
    """An array of objects: ``numpy.load(allow_pickle=True)`` unpickles what follows the header."""
    found = read_programs(source, start, source.size, None, "other", nesting=nesting)
    left = Leftover("array", "a NumPy array of Python objects", unread=True)
    state_dict = StateDict({}, leftovers=(left,))
    return Container("numpy", source.name, source, state_dict, found.programs, found.anomalies, found.skipped)


def _not_understood(source: Source, why: str, start: int, nesting: Nesting) -> Container:
    """A file whose header says nothing reliable; a pickle behind it is looked at all the same."""
    odd = Anomaly("numpy.header", f"a NumPy array file, but {why}", offset=8)
    skipped = (Skipped("the array cannot be told from its header"),)
    programs: tuple[PickleProgram, ...] = ()
    anomalies: tuple[Anomaly, ...] = (odd,)
    if start < source.size:
        found = read_programs(source, start, source.size, None, "other", nesting=nesting)
        if acts(found.first):
            programs, anomalies = found.programs, (odd, *found.anomalies)
    return Container("numpy", source.name, source, None, programs, anomalies, skipped)
