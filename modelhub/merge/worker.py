"""What each thread of a merge does: it computes tensors, and writes them from the memory that they are made in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from modelhub.convert import OutputFile, PlannedTensor
from modelhub.convert.target import PartFile
from modelhub.convert.verify import Mark
from modelhub.merge.base import Address, Told
from modelhub.merge.compute import Buffers, Computed
from modelhub.merge.reading import bytes_of

_MARKED = 1 << 16
"""Bytes at either end of a computed tensor that are compared once they are written: it lies where it should."""


Compute = Callable[[Address, PlannedTensor, Buffers], Computed]
"""Gives what computes the tensor that lies at an address."""


class Worker:
    """Writes tensors of *output* that *compute* computes into *part*, and tells *tell* their bytes; for one thread."""

    def __init__(self, compute: Compute, output: OutputFile, part: PartFile, tell: Callable[[int], None]) -> None:
        self._compute = compute
        self._header = len(output.header)
        self._part = part
        self._tell = tell
        self._buffers = Buffers(self._room)
        self._start = 0
        self._given: int | None = None

    def write(self, address: Address, planned: PlannedTensor) -> tuple[Told | None, tuple[Mark, ...]]:
        """Write *planned*, which lies at *address*: what that did to its weights, and the marks of its bytes."""
        self._start = self._header + planned.begin
        computation = self._compute(address, planned, self._buffers)
        marks: list[Mark] = []
        reached = 0
        for offset, block in computation.blocks():
            data = bytes_of(block)
            if offset == 0:
                marks.clear()
                marks.append(_mark(0, data[:_MARKED]))
            if offset + len(data) == planned.nbytes:
                last = data[-_MARKED:]
                marks.append(_mark(planned.nbytes - len(last), last))
            self._put(offset, data)
            self._tell(max(0, offset + len(data) - reached))
            reached = max(reached, offset + len(data))
        return computation.told, tuple(marks)

    def _room(self, offset: int, size: int) -> memoryview | None:
        """See :data:`~modelhub.merge.compute.Room`."""
        room = self._part.room(self._start + offset, size)
        self._given = offset if room is not None else None
        return room

    def _put(self, offset: int, data: memoryview) -> None:
        """Write *data*, which was made in the room for it if one was given."""
        if self._given == offset:
            self._part.fill(len(data))
        else:
            self._part.write_at(self._start + offset, data, direct=True)
        self._given = None


def _mark(offset: int, data: memoryview) -> Mark:
    return Mark(offset, len(data), zlib.crc32(data))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have each thread of this process compute with *count* of torch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
