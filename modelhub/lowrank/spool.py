"""Factors on their way into a file: they are kept beside it until all are there, since the header comes first."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import torch
from torch import Tensor

from modelhub.convert import Assembly, Conversion, Piece
from modelhub.convert import execute as write_conversion
from modelhub.convert.arrange import arranged
from modelhub.convert.base import Draft
from modelhub.convert.options import NO_OPTIONS
from modelhub.convert.target import PartFile, write_error
from modelhub.errors import MergeError
from modelhub.merge.reading import bytes_of
from modelhub.source import open_local
from modelhub.tensors import DType, StorageRef, TensorInfo

_TORCH = {DType.F16: torch.float16, DType.BF16: torch.bfloat16, DType.F32: torch.float32}


class Spool:
    """A hidden file beside *target* that factors are written to; leaving it removes it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._part = PartFile(target, 0)
        self._tensors: dict[str, TensorInfo] = {}
        self._end = 0

    def add(self, name: str, values: Tensor, dtype: DType) -> None:
        """Add the tensor *name*, rounded to *dtype*. Raises :class:`MergeError` for values that it cannot hold."""
        made = values.to(_TORCH[dtype]).contiguous()
        if not bool(made.isfinite().all()):
            hint = "--dtype bf16 or fp32 keeps it in range"
            raise MergeError(f"{self._target}: tensor {name!r:.100} has values out of range", hint=hint)
        data = bytes_of(made)
        try:
            self._part.write_at(self._end, data)
        except OSError as error:
            raise write_error(error, self._target, self._end + len(data)) from error
        storage = StorageRef(name, self._end, len(data))
        self._tensors[name] = TensorInfo(name, dtype, tuple(made.shape), storage)
        self._end += len(data)

    def write(self, copied: Mapping[str, Piece], metadata: Mapping[str, str], *, force: bool) -> Conversion:
        """Write the target: what was added, and *copied* as it lies; as :func:`modelhub.convert.execute`."""
        with open_local(self._part.path) as source:
            pieces = {name: Piece(source, tensor) for name, tensor in self._tensors.items()} | dict(copied)
            tensors = {n: Assembly(p.tensor.dtype, p.tensor.shape, (p,)) for n, p in pieces.items()}
            plan = arranged(self._target, {"": Draft(tensors)}, {"format": "pt", **metadata}, NO_OPTIONS)
            return write_conversion(plan, self._target, force=force)

    def __enter__(self) -> Spool:
        self._part.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.__exit__(kind, error, trace)
