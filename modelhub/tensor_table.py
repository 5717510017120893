"""Tensors by the thousand: a table of plain ones, and what is counted of many.

A safetensors header lists thousands of tensors of a few dozen forms. Who goes through thousands of such lists asks for
few of the :class:`~modelhub.tensors.TensorInfo`, and making them would take longer than everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from functools import partial
from itertools import repeat
from math import prod
from operator import attrgetter
from typing import NamedTuple

from modelhub.tensors import DType, StorageRef, TensorInfo


class Form(NamedTuple):
    """Element type and shape of a tensor, and the bytes that it takes."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


class TensorTable(Mapping[str, TensorInfo]):
    """Plain tensors in the order of their bytes, each in a storage of its own: ``names``, ``forms`` and ``starts`` have
    a row for each. A :class:`TensorInfo` is made of a row when somebody asks for it; whoever goes through thousands of
    lists asks for few."""

    __slots__ = ("_bits", "_made", "_rows", "forms", "names", "starts")

    def __init__(self, names: Sequence[str], forms: Sequence[Form], starts: Sequence[int]) -> None:
        self.names, self.forms, self.starts = names, forms, starts
        self._rows = dict(zip(names, range(len(names)), strict=True))
        self._made: dict[str, TensorInfo] | None = None
        self._bits: dict[DType, int] | None = None

    def __getitem__(self, name: str) -> TensorInfo:
        if self._made is not None:
            return self._made[name]
        row = self._rows[name]
        dtype, shape, nbytes = self.forms[row]
        return TensorInfo(name, dtype, shape, StorageRef(name, self.starts[row], nbytes))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def keys(self) -> KeysView[str]:
        return self._rows.keys()

    def values(self) -> ValuesView[TensorInfo]:
        return self._all().values()

    def items(self) -> ItemsView[str, TensorInfo]:
        return self._all().items()

    def row(self, name: str) -> tuple[Form, int]:
        """The form of the tensor called *name*, and where it starts."""
        row = self._rows[name]
        return self.forms[row], self.starts[row]

    def shapes(self, names: Iterable[str]) -> set[tuple[int, ...]]:
        """The different shapes of the tensors called *names*."""
        return {self.forms[row].shape for row in map(self._rows.__getitem__, names)}

    def bits(self) -> dict[DType, int]:
        """What :func:`bits_of` gives."""
        if self._bits is None:
            self._bits = {}
            known = dict(zip(map(id, self.forms), self.forms, strict=True))  # most are one object: less to hash
            for number, count in Counter(map(id, self.forms)).items():
                dtype, _, nbytes = known[number]
                self._bits[dtype] = self._bits.get(dtype, 0) + count * nbytes * 8
        return self._bits

    def _all(self) -> dict[str, TensorInfo]:
        if self._made is None:
            dtypes, shapes, sizes = zip(*self.forms, strict=True) if self.forms else ((), (), ())
            storages = map(_storage, zip(self.names, self.starts, sizes, *_AS_IT_LIES, strict=False))
            tensors = map(_tensor, zip(self.names, dtypes, shapes, storages, *_PLAINLY, strict=False))
            self._made = dict(zip(self.names, tensors, strict=True))
        return self._made


_storage = partial(tuple.__new__, StorageRef)
_tensor = partial(tuple.__new__, TensorInfo)
_AS_IT_LIES = [repeat(default) for default in StorageRef._field_defaults.values()]
_PLAINLY = [repeat(default) for default in TensorInfo._field_defaults.values()]


def bits_of(tensors: Mapping[str, TensorInfo]) -> Mapping[DType, int]:
    """The bits that the elements of *tensors* take, by element type; none for sizes below zero, which broken files
    claim."""
    if isinstance(tensors, TensorTable):
        return tensors.bits()
    bits: dict[DType, int] = {}
    forms = Counter(map(_form, tensors.values()))  # thousands of tensors have a few dozens
    for (dtype, shape), count in forms.items():
        bits[dtype] = bits.get(dtype, 0) + count * max(0, prod(shape)) * dtype.bits
    return bits


_form = attrgetter("dtype", "shape")


def shapes_of(tensors: Mapping[str, TensorInfo]) -> list[tuple[int, ...]]:
    """The shapes of *tensors*, in their order."""
    return list(map(_shape, tensors.forms if isinstance(tensors, TensorTable) else tensors.values()))


_shape = attrgetter("shape")


def elements_of(tensors: Mapping[str, TensorInfo]) -> int:
    """Elements of all *tensors* together."""
    return sum(bits // dtype.bits for dtype, bits in bits_of(tensors).items())
