"""State dicts made of names and shapes, with the bytes that identification may ask for."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from modelhub.identify import Evidence, Identity, identify_state_dict
from modelhub.samples.layouts import Layout
from modelhub.tensors import DType, Scalar, StateDict, StorageRef, TensorInfo

Shape = tuple[int, ...]
Reader = Callable[[int, int], bytes]


def layout(shapes: Mapping[str, Shape], dtype: DType = DType.F16) -> Layout:
    """All of *shapes* with one element type."""
    return {name: (dtype, shape) for name, shape in shapes.items()}


def state_dict(
    contents: Layout,
    metadata: Mapping[str, str] | None = None,
    scalars: Mapping[str, Scalar] | None = None,
    **storage: Any,
) -> StateDict:
    """*contents* one after another in a file of their own; *storage* is passed on to every StorageRef."""
    tensors: dict[str, TensorInfo] = {}
    offset = 0
    for name, (dtype, shape) in contents.items():
        nbytes = TensorInfo(name, dtype, shape, StorageRef(name, 0, 0)).nbytes
        tensors[name] = TensorInfo(name, dtype, shape, StorageRef(name, offset, nbytes, **storage))
        offset += nbytes
    return StateDict(tensors, scalars or {}, (), metadata or {})


def holding(tensors: StateDict, values: Mapping[str, bytes]) -> tuple[Reader, list[tuple[int, int]]]:
    """A reader of a file in which the named tensors hold *values* (zeros elsewhere), and the list of its reads."""
    reads: list[tuple[int, int]] = []
    at = {tensors[name].start: data for name, data in values.items()}

    def read(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return at.get(offset, b"").ljust(length, b"\0")[:length]

    return read, reads


def half(value: float) -> bytes:
    """*value* as a float16."""
    return struct.pack("<e", value)


def known(
    shapes: Mapping[str, Shape] | Layout, *, metadata: Mapping[str, str] | None = None, dtype: DType = DType.F16
) -> Identity:
    """The identity of *shapes* (or of a whole layout), no byte of which can be read."""
    contents: dict[str, Any] = {
        name: value if value and isinstance(value[0], DType) else (dtype, value) for name, value in shapes.items()
    }
    return identify_state_dict(state_dict(contents, metadata))


def reasons(identity: Identity, fact: str) -> list[Evidence]:
    """The evidence for *fact*."""
    return [each for each in identity.evidence if each.fact == fact]
