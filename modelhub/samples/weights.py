"""Tensors to be written: their data comes in chunks when it is asked for, so that a file of any size fits.

Random weights are reproducible: the same seed, name, type and shape give the same bytes everywhere.
"""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from modelhub.samples.modules import Shape
from modelhub.tensors import DType

Chunks = Iterable[bytes | memoryview]


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of *numel* elements that one or more weights look at; identity is what makes it shared.

    ``chunks()`` gives its bytes from the first to the last, anew at each call.
    """

    dtype: DType
    numel: int
    chunks: Callable[[], Chunks]

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A tensor over a storage; *offset* and *strides* are in elements, ``strides=None`` meaning C order."""

    storage: Storage
    shape: Shape
    offset: int = 0
    strides: tuple[int, ...] | None = None
    requires_grad: bool = False

    @property
    def dtype(self) -> DType:
        return self.storage.dtype


def weight(dtype: DType, shape: Shape, data: bytes) -> Weight:
    """A tensor in a storage of its own, with *data* in C order and little endian as its bytes."""
    storage = Storage(dtype, _numel(shape), lambda: (data,))
    if storage.nbytes != len(data):
        raise ValueError(f"{shape} of {dtype.label} takes {storage.nbytes} bytes, not {len(data)}")
    return Weight(storage, shape)


def scalar(dtype: DType, value: float) -> Weight:
    """A 0-d tensor of a floating point or integer *dtype*."""
    return weight(dtype, (), _pack(dtype, [value]))


def random_weight(name: str, dtype: DType, shape: Shape, seed: int = 0) -> Weight:
    """A tensor of reproducible random values: normally distributed with deviation 0.02 for floating point types.

    64- and 32-bit integers count up from 0, as position ids do. Tensors of different names differ, and so do the
    parts of one: the values repeat only after a prime number of elements.
    """
    numel = _numel(shape)
    start = zlib.crc32(name.encode()) % _PERIOD

    def chunks() -> Iterator[memoryview | bytes]:
        if dtype in _INTEGERS:
            yield _pack(dtype, range(numel))
            return
        size = dtype.itemsize
        tile = memoryview(_tile(dtype, seed))
        period, left, at = _PERIOD * size, numel * size, start * size
        while left > 0:
            chunk = tile[at : at + min(left, len(tile) - at)]
            yield chunk
            left -= len(chunk)
            at = (at + len(chunk)) % period

    return Weight(Storage(dtype, numel, chunks), shape)


def random_weights(layout: Mapping[str, tuple[DType, Shape]], seed: int = 0) -> dict[str, Weight]:
    """Random weights for every tensor of *layout*; a LoRA's ``alpha`` is half its rank, as trainers suggest."""
    ranks = {
        name.removesuffix(".lora_down.weight"): shape[0]
        for name, (_, shape) in layout.items()
        if name.endswith(".lora_down.weight")
    }
    made: dict[str, Weight] = {}
    for name, (dtype, shape) in layout.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "alpha" and module in ranks:
            made[name] = scalar(dtype, ranks[module] / 2)
        else:
            made[name] = random_weight(name, dtype, shape, seed)
    return made


_PERIOD = 65_521  # the largest prime below 2**16: no power of two of bytes is a multiple of it
_TILES = 16
_STRUCT_CODES = {DType.F16: "e", DType.F32: "f", DType.F64: "d", DType.I32: "i", DType.I64: "q"}
_INTEGERS = frozenset({DType.I32, DType.I64})


@functools.cache
def _tile(dtype: DType, seed: int) -> bytes:
    """``_PERIOD`` random elements, ``_TILES`` times."""
    source = random.Random(seed)  # noqa: S311 - not for secrets
    if dtype.is_float:
        block = _pack(dtype, [source.gauss(0.0, 0.02) for _ in range(_PERIOD)])
    else:
        # Two bits of each byte stay clear: any bytes would do for integers, but of the 8-bit floating point
        # types 0x3f and below is always finite, and for BOOL only 0 and 1 are values.
        mask = 0x01 if dtype is DType.BOOL else 0x3F
        table = bytes(b & mask for b in range(256))
        block = source.randbytes(_PERIOD * dtype.itemsize).translate(table)
    return block * _TILES


def _pack(dtype: DType, values: Iterable[float]) -> bytes:
    numbers = list(values)
    if dtype is DType.BF16:  # the upper half of a float32
        wide = struct.pack(f"<{len(numbers)}f", *numbers)
        return b"".join(wide[i : i + 2] for i in range(2, len(wide), 4))
    return struct.pack(f"<{len(numbers)}{_STRUCT_CODES[dtype]}", *numbers)


def _numel(shape: Shape) -> int:
    n = 1
    for d in shape:
        n *= d
    return n
