"""Torch tensors over memory that was filled from a file."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from modelhub.convert.gather import c_strides
from modelhub.tensors import DType, TensorInfo

if TYPE_CHECKING:
    import torch


class TorchMaker:
    """Makes ``torch.Tensor`` objects, on the CPU. Raises :class:`ImportError` without torch."""

    framework = "torch"

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def holds(self, tensor: TensorInfo) -> bool:
        # torch packs two elements of 4 bits into one, and has no quantised tensors that are made of a storage alone
        odd = tensor.dtype is DType.F4 and (not tensor.shape or tensor.shape[-1] % 2)
        quantised = tensor.dtype in (DType.QI8, DType.QU8, DType.QI32)
        return not odd and not quantised and self._dtype(tensor) is not None

    def _dtype(self, tensor: TensorInfo) -> Any:
        return getattr(self._torch, tensor.dtype.torch_name or "none", None)

    def growth(self, _dtype: DType) -> int:
        return 1

    def memory(self, nbytes: int, _widened: DType | None) -> tuple[torch.UntypedStorage, memoryview]:
        # memory of torch's own allocator, which torch can resize, and which is not zeroed before it is filled
        storage = self._torch.empty(nbytes, dtype=self._torch.uint8).untyped_storage()
        return storage, memoryview((ctypes.c_ubyte * nbytes).from_address(storage.data_ptr())).cast("B")

    def settle(self, memory: Any, widened: DType | None) -> None:
        pass

    def array(self, memory: Any, tensor: TensorInfo, offset: int) -> torch.Tensor:
        shape = _shape(tensor)
        made: torch.Tensor = self._torch.empty(0, dtype=self._dtype(tensor))
        made.set_(memory, offset // made.element_size(), shape, tensor.strides or c_strides(shape))
        if tensor.conj:
            made = made.conj()
        return self._torch._neg_view(made) if tensor.neg else made

    def empty(self, tensor: TensorInfo) -> torch.Tensor:
        return self._torch.empty(_shape(tensor), dtype=self._dtype(tensor))


def _shape(tensor: TensorInfo) -> tuple[int, ...]:
    return (*tensor.shape[:-1], tensor.shape[-1] // 2) if tensor.dtype is DType.F4 else tensor.shape
