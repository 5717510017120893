"""joblib's files: pickles with the bytes of arrays between their opcodes, put together here as joblib writes them."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from modelhub.scan import Verdict, scan
from tests.container.build import hostile, imports, opened, rules

EVIL = imports(opened(hostile()))
WRAPPER = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def wrapper(array: np.ndarray, alignment: int | None = 16) -> bytes:
    """The opcodes up to BUILD, after which joblib reads the array's bytes."""
    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + text(array.dtype.str[1:]) + b"\x89\x88\x87R"
    state = text("shape") + shape + text("dtype") + dtype + text("order") + text("C")
    state += text("subclass") + b"cnumpy\nndarray\n" + text("allow_mmap") + b"\x88"
    state += text("numpy_array_alignment_bytes") + (b"N" if alignment is None else b"K" + bytes((alignment,)))
    return WRAPPER + b")\x81}(" + state + b"ub"


def written(arrays: list[np.ndarray], alignment: int | None = 16, tail: bytes = b"e.") -> bytes:
    """A list of *arrays*."""
    out = bytearray(b"\x80\x04](")
    for array in arrays:
        out += wrapper(array, alignment)
        if array.dtype.hasobject:
            out += pickle.dumps(array, 5)
            continue
        if alignment:
            padding = alignment - (len(out) + 1) % alignment
            out += bytes((padding,)) + b"\xff" * padding
        out += array.tobytes()
    return bytes(out) + tail


ARRAYS = [np.arange(6.0), np.zeros((0, 3)), np.ones((3, 4), "f4"), np.arange(70_000), np.array(["a", "bc"])]


def test_arrays_are_passed_over():
    """A joblib file of plain arrays is followed to its end, and every offset is that of the file."""
    data = written(ARRAYS)
    container = opened(data, "x.joblib")
    assert container.kind == "pickle" and container.anomalies == () and container.skipped == ()
    (program,) = container.pickles
    assert program.trace.complete and program.trace.end == len(data)
    assert len(program.trace.builds) == len(ARRAYS)
    assert all(data[each.offset : each.offset + 1] == b"b" for each in program.trace.builds)
    assert opened(zlib.compress(data), "x.joblib").pickles[0].trace.complete


def test_arrays_of_numbers_are_safe():
    """Arrays of numbers and text are proven: their wrapper says exactly what joblib writes."""
    data = written(ARRAYS)
    assert scan(opened(data, "x.joblib")).verdict is Verdict.SAFE
    assert scan(opened(zlib.compress(data), "x.joblib")).verdict is Verdict.SAFE


@pytest.mark.parametrize(
    "data",
    [
        written(ARRAYS).replace(b"cnumpy\nndarray\n", b"cnumpy\nmatrix\n"),
        written(ARRAYS).replace(text("order") + text("C"), text("order") + text("X")),
        written(ARRAYS).replace(text("order"), text("other")),
        written(ARRAYS, alignment=None),
        written(ARRAYS[:1], tail=b"0h\0e."),
        written(ARRAYS[:1], tail=b"}bN."),
        written(ARRAYS[:1], tail=b"K\1K\2sN."),
        written(ARRAYS, tail=b"e.") + b"N.",
    ],
)
def test_wrappers_that_are_not_joblibs_are_not_safe(data):
    """A wrapper with other attributes, with a second state or with items, is not proven."""
    assert scan(opened(data, "x.joblib")).verdict > Verdict.SAFE


def test_what_follows_an_array_is_seen():
    """A call behind an array's bytes is not hidden by them."""
    evil = hostile()[2:-1] + b"e."
    for arrays in (ARRAYS, ARRAYS[:1], []):
        assert imports(opened(written(arrays, tail=evil))) >= EVIL


def test_arrays_of_objects_are_pickles():
    """The pickle that joblib reads for an array of objects is traced, and what follows it too."""

    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, ("marker",)

    objects = np.empty(1, dtype=object)
    objects[0] = Call()
    container = opened(written([*ARRAYS, objects, *ARRAYS]))
    assert imports(container) >= EVIL
    assert [each.role for each in container.pickles] == ["object", "other", "other"]
    assert container.pickles[0].trace.complete
    assert container.pickles[1].member.startswith("array@")


def test_old_files_have_no_padding():
    """Without padding, a plain unpickler would go on into the array: what it would see is traced as well."""
    disguised = np.frombuffer(hostile()[2:-1] + b"." * 8, dtype="u1")
    container = opened(written([disguised], alignment=None))
    assert container.pickles[0].trace.complete
    assert imports(container) >= EVIL


@pytest.mark.parametrize(
    "data",
    [
        written(ARRAYS)[:-9],
        written([np.arange(3.0)]).replace(b"f8", b"V8"),
        written([np.arange(3.0)]).replace(text("shape"), text("sizes")),
        b"\x80\x04"
        + WRAPPER
        + b")\x81q\0"
        + wrapper(np.arange(2))[len(WRAPPER) + 2 :]
        + b"\x01\xff"
        + bytes(16)
        + b"0h\0}bN.",
        b"\x80\x04ccopyreg\n_reconstructor\n" + WRAPPER + b"c__builtin__\nobject\nN\x87R}" + text("shape") + b")sb.",
    ],
)
def test_arrays_of_unknown_length_are_told(data):
    """Where the array's end cannot be told, the file is not taken for understood."""
    container = opened(data, "x.joblib")
    broken = any(not each.trace.complete for each in container.pickles)
    assert broken or "joblib.array" in rules(container)


def test_many_arrays_end_soon():
    """A file with very many arrays is given up, and said to be."""
    container = opened(written([np.arange(2)] * 1001))
    assert "joblib.array" in rules(container) and container.skipped
