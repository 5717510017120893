"""Tensors of open files as torch tensors: those of an adapter as a whole, those of a base in runs of rows."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modelhub.convert import Piece, PlannedTensor
from modelhub.convert.stream import lies_ready, stream
from modelhub.errors import ChangedDuringRead
from modelhub.merge.scaled import Scaled, ScaledSource
from modelhub.source import LocalSource, Source
from modelhub.tensors import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ONE_AT_A_TIME = threading.Lock()
"""Held while a source is read that only one thread may read: a storage that is unpacked on the way."""


def torch_type(dtype: DType) -> torch.dtype:
    """torch's element type of that name."""
    found: torch.dtype = getattr(torch, dtype.torch_name)
    return found


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of the contiguous *tensor*, to be read or filled while the tensor lives."""
    nbytes = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_ubyte * nbytes).from_address(tensor.data_ptr())).cast("B")


def whole(piece: Piece, dtype: torch.dtype) -> Tensor:
    """All of *piece*, in its shape, as *dtype*."""
    info = piece.tensor
    made = torch.empty(info.shape, dtype=torch_type(info.dtype))
    if info.numel:
        _fill(piece, bytes_of(made), 0)
    return made.to(dtype)


class Rows:
    """The rows of *piece*, a base's tensor: read where they are asked for."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._ready = lies_ready(piece.tensor, piece.tensor.dtype)
        self._gathered: Tensor | None = None

    def read(self, start: int, into: Tensor) -> None:
        """Fill *into*, contiguous and of the tensor's own type, with the elements from number *start* on."""
        if self._ready:
            _fill(self._piece, bytes_of(into), start * into.element_size())
            return
        if self._gathered is None:
            made = torch.empty(self._piece.tensor.numel, dtype=into.dtype)
            _fill(self._piece, bytes_of(made), 0)
            self._gathered = made
        into.copy_(self._gathered[start : start + into.numel()].reshape(into.shape))


def _fill(piece: Piece, memory: memoryview, offset: int) -> None:
    """Fill *memory* with the bytes of *piece*, C-ordered, from byte *offset* on (0 where it does not lie so)."""
    if _is_for_all(piece.source):
        _fill_from(piece, memory, offset)
    else:
        with _ONE_AT_A_TIME:
            _fill_from(piece, memory, offset)


def scales_of(scaled: Scaled, first: int, last: int) -> NDArray[Any]:
    """:meth:`Scaled.scales_of`, by whatever thread."""
    if scaled.scales is None or _is_for_all(scaled.scales.source):
        return scaled.scales_of(first, last)
    with _ONE_AT_A_TIME:
        return scaled.scales_of(first, last)


def _is_for_all(source: Source) -> bool:
    """Whether several threads may read *source* at a time."""
    if isinstance(source, ScaledSource):
        pieces = (source.scaled.codes, source.scaled.scales)
        return all(piece is None or isinstance(piece.source, LocalSource) for piece in pieces)
    return isinstance(source, LocalSource)


def _fill_from(piece: Piece, memory: memoryview, offset: int) -> None:
    info, source = piece.tensor, piece.source
    if lies_ready(info, info.dtype):
        if source.readinto_at(info.start + offset, memory) != len(memory):
            raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
        return
    planned = PlannedTensor(info.name, info.dtype, info.shape, (piece,), 0, info.nbytes)
    for begin, data in stream(planned):
        memory[begin : begin + len(data)] = data
