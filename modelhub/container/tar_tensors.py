"""Two members of PyTorch checkpoints from before 0.1.10, in which pickles and raw bytes take turns.

``storages`` is a pickled count and, for each storage, a pickled ``(key, location, type)``, the number of elements as
int64 and the elements; then a pickled list of views, ``(key, key of the whole, offset, elements)``. ``tensors`` is a
pickled count and, for each tensor, a pickled ``(key, storage key, type)``, the number of dimensions as int32, four
bytes that mean nothing, sizes and strides as int64, and the offset as int64 (torch 2.13, ``_legacy_load``). All numbers
are little-endian. The object asks for tensors by their keys, written as text.
"""

from __future__ import annotations

import struct
from typing import NoReturn

from modelhub.container.base import PickleProgram
from modelhub.container.programs import SMALL
from modelhub.pickles import Elements, Value, trace_pickle
from modelhub.pickles.declaration import is_count, storage_dtype
from modelhub.pickles.elements import MAX_RANK, BadTensor, placed
from modelhub.source import Source
from modelhub.tensors import StorageRef, TensorInfo

_MOST = 100_000
_MOST_PICKLED = 16 << 20
"""Storages, and tensors, and bytes of all pickles that describe them."""

Key = int | str


class Broken(Exception):
    """The member is not as it should be from here on."""


class MemberStream:
    """A member that is read from its beginning: pickles and numbers in turns."""

    def __init__(self, source: Source, name: str, start: int, end: int) -> None:
        self.source = source
        self.name = name
        self.start = self.position = start
        self.end = end
        self.programs: list[PickleProgram] = []
        self.pickled = 0

    def broken(self, what: str) -> NoReturn:
        raise Broken(f"the member {self.name!r} {what}")

    def value(self) -> Value:
        """What the next pickle makes."""
        trace = trace_pickle(self.source, self.position, self.end, SMALL)
        self.programs.append(PickleProgram(trace, self.name, "other", self.start, self.source))
        self.position = trace.end
        self.pickled += trace.end - trace.start
        if not trace.stopped:
            self.broken("ends inside a pickle, or has a broken one")
        if self.pickled > _MOST_PICKLED:
            self.broken("has larger pickles than are looked at")
        return trace.result

    def count(self) -> int:
        """How many descriptions follow."""
        value = self.value()
        if not is_count(value) or value > _MOST:
            self.broken("does not begin with a count")
        return int(value)

    def numbers(self, code: str) -> tuple[int, ...]:
        form = struct.Struct(f"<{code}")
        data = self.take(form.size)
        return form.unpack(self.source.read_at(data, form.size))

    def take(self, nbytes: int) -> int:
        """Where the next *nbytes* bytes begin, which are passed over."""
        if nbytes > self.end - self.position:
            self.broken("is cut off")
        self.position += nbytes
        return self.position - nbytes

    def finish(self) -> None:
        if self.position != self.end:
            self.broken(f"has {self.end - self.position} bytes more than it should")


def read_storages(stream: MemberStream) -> dict[Key, Elements]:
    """The storages in *stream* by key. Raises :class:`Broken`."""
    found: dict[Key, Elements] = {}
    for _ in range(stream.count()):
        described = stream.value()
        if type(described) is not tuple or len(described) != 3 or not _is_key(described[0]):
            stream.broken("has a storage without a key and a type")
        key, _, kind = described
        dtype = storage_dtype(kind)
        if dtype is None or key in found:
            stream.broken("has a storage of an unknown type, or two of one key")
        (numel,) = stream.numbers("q")
        if numel < 0:
            stream.broken("has a storage of a negative size")
        nbytes = numel * dtype.itemsize
        storage = StorageRef(str(key), stream.take(nbytes), nbytes)
        found[key] = Elements(dtype, storage, 0, nbytes)
    views = stream.value()
    if type(views) is not list:
        stream.broken("has no list of views")
    for view in views:
        if type(view) is not tuple or len(view) != 4 or not (_is_key(view[0]) and _is_key(view[1])):
            stream.broken("has a view that is not one")
        key, whole, offset, numel = view
        root = found.get(whole)
        if root is None or root.dtype is None or not (is_count(offset) and is_count(numel)):
            stream.broken("has a view of a storage that is not there")
        start, nbytes = root.start + offset * root.dtype.itemsize, numel * root.dtype.itemsize
        if start + nbytes > root.start + root.nbytes:
            stream.broken("has a view that reaches out of its storage")
        found[key] = Elements(root.dtype, root.storage, start, nbytes)
    stream.finish()
    return found


def read_tensors(stream: MemberStream, storages: dict[Key, Elements]) -> dict[str, TensorInfo]:
    """The tensors in *stream*, by the text that asks for them. Raises :class:`Broken`."""
    found: dict[str, TensorInfo] = {}
    for _ in range(stream.count()):
        described = stream.value()
        if type(described) is not tuple or len(described) != 3 or not (_is_key(described[0]) and _is_key(described[1])):
            stream.broken("has a tensor without a key and a storage")
        key, storage_key, _ = described
        rank, _ = stream.numbers("ii")
        if not 0 <= rank <= MAX_RANK:
            stream.broken(f"has a tensor of {rank} dimensions")
        shape, strides = stream.numbers(f"{rank}q"), stream.numbers(f"{rank}q")
        (offset,) = stream.numbers("q")
        elements = storages.get(storage_key)
        if elements is None or elements.dtype is None:
            stream.broken("has a tensor of a storage that is not there")
        try:
            found[str(key)] = placed(f"tensor {key}", elements.dtype, elements, (offset, shape, strides))
        except BadTensor as bad:
            stream.broken(f"has a tensor that does not fit: {bad.message}"[:200])
    stream.finish()
    return found


def _is_key(value: Value) -> bool:
    return type(value) in (int, str)
