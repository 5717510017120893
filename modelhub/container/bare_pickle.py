"""Bare pickles, whose arrays and tensors lie in them as bytes.

numpy's arrays are bytes of a pickle; torch pickles each storage, outside ``torch.save``, as a complete legacy file that
is handed to ``torch.storage._load_from_bytes``.
"""

from __future__ import annotations

from modelhub.container.base import Container
from modelhub.container.nesting import Nesting
from modelhub.container.programs import SMALL, read_programs
from modelhub.container.storages import Storages
from modelhub.container.torch_legacy import MAGIC, PROTOCOL, ROLES, read_torch_legacy
from modelhub.pickles import (
    Call,
    Elements,
    Global,
    Persistent,
    Surroundings,
    declaration_of,
    read_state_dict,
    trace_pickle,
)
from modelhub.pickles.elements import BadTensor
from modelhub.pickles.literals import literal_elements
from modelhub.source import BytesSource, Source
from modelhub.tensors import DType, StorageRef, TensorInfo

_FRAMING = 1 << 16
"""Bytes in which a storage's framing, some 500 bytes, must end."""

_MOST = 20_000
"""Storages that are looked into in one pickle."""


def read_pickle(source: Source, nesting: Nesting) -> Container:
    """Open a file that is a pickle; one that makes torch's magic number first is read as a legacy checkpoint."""
    found = read_programs(source, 0, source.size, nesting=nesting)
    if type(found.first.result) is int and found.first.result == MAGIC:
        return read_torch_legacy(source, nesting)
    if any(each.name == "NumpyArrayWrapper" for each in found.first.imports):
        from modelhub.container.joblib import read_joblib

        found = read_joblib(source, nesting)
    reading = read_state_dict(found.first, Surroundings({}, nested=NestedStorages(source).find))
    return Container(
        "pickle",
        source.name,
        source,
        reading.state_dict,
        found.programs,
        (*found.anomalies, *reading.anomalies),
        found.skipped,
    )


class NestedStorages:
    """The storages in bytes of *source* that its pickle hands to torch; each literal is looked into once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._storages = Storages(source)
        self._around = Surroundings({})
        self._found: dict[int, Elements | None] = {}

    def find(self, call: Call) -> Elements | None:
        """The storage that ``_load_from_bytes(bytes)`` gives, ``None`` when *call* is another one, or cannot be told.

        Raises :class:`BadTensor` when its bytes are cut off, or when there are more than are looked into.
        """
        callee, args = call.callee, call.args
        if type(callee) is not Global or callee.qualified != "torch.storage._load_from_bytes":
            return None
        if type(args) is not tuple or len(args) != 1:
            return None
        if id(args[0]) not in self._found:
            if len(self._found) == _MOST:
                raise BadTensor("tensor.limit", f"there are more than {_MOST} storages of their own in the pickle")
            literal = literal_elements(args[0], f"bytes@{call.offset}", self._around)
            self._found[id(args[0])] = None if literal is None else self._framed(literal.storage)
        return self._found[id(args[0])]

    def _framed(self, literal: StorageRef) -> Elements | None:
        """The one storage of the legacy file *literal* (torch 2.13, ``_legacy_save`` of a storage)."""
        if literal.packing is not None:
            literal = literal._replace(nbytes=self._storages.characters(literal))
        head = self._head(literal)
        position = 0
        results = []
        for _ in ROLES:
            trace = trace_pickle(head, position, None, SMALL)
            if not trace.stopped:
                return None
            results.append(trace.result)
            position = trace.end
        magic, protocol, _, storage, keys = results
        declared = declaration_of(storage) if type(storage) is Persistent else None
        if (magic, protocol) != (MAGIC, PROTOCOL) or declared is None or keys != [declared.key]:
            return None
        if head.read_at(position, 8) != declared.numel.to_bytes(8, "little"):
            return None
        start, nbytes = position + 8, declared.nbytes
        if start + nbytes > literal.nbytes:
            raise BadTensor("tensor.out-of-bounds", f"storage {literal.key} is cut off")
        if declared.view is not None:
            width = declared.dtype.itemsize if declared.dtype else 1
            start, nbytes = start + declared.view[1] * width, declared.view[2] * width
        if literal.packing is not None:
            return Elements(declared.dtype, literal, start, nbytes)
        data = literal.data[start : start + nbytes] if literal.data is not None else None
        storage = StorageRef(literal.key, literal.start + start, nbytes, data=data)
        return Elements(declared.dtype, storage, 0, nbytes)

    def _head(self, literal: StorageRef) -> BytesSource:
        """The first bytes of *literal*."""
        source, placed = self._storages.locate(TensorInfo("", DType.U8, (literal.nbytes,), literal))
        return BytesSource(literal.key, source.read_at(placed.start, min(_FRAMING, literal.nbytes)))
