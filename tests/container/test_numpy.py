"""NumPy's files: plain arrays are tensors, arrays of objects are pickles, and no header is believed unchecked."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.container.build import Part, build_zip, hostile, imports, opened, rules, same_tensors

EVIL = imports(opened(hostile()))


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def with_header(header: bytes, after: bytes = b"", version: int = 1) -> bytes:
    return (
        b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + after
    )


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i8", "u1", "?", "c8", "c16", "u2", ">f4", ">i2"])
def test_plain_arrays_are_tensors(dtype, version):
    """An array of numbers is fully examined, and its tensor has the array's bytes."""
    for array in (np.arange(12).reshape(3, 4), np.array(3), np.zeros((0, 2)), np.arange(5)):
        typed = array.astype(dtype)
        data = npy(typed, version)
        container = opened(data, "x.npy")
        assert (container.kind, container.anomalies, container.skipped) == ("numpy", (), ())
        native = np.array(typed, dtype=typed.dtype.newbyteorder("="))
        assert same_tensors(data, container, {"array": torch.from_numpy(native)})


def test_columns_first():
    """An array in Fortran order is the same tensor, with the strides of its columns."""
    array = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    assert same_tensors(npy(array), opened(npy(array)), {"array": torch.from_numpy(array.copy(order="C"))})


@pytest.mark.filterwarnings("ignore:Reading:UserWarning")
def test_headers_by_python_2():
    """Python 2 wrote long integers with an L, which numpy still reads."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n"
    data = with_header(header, np.arange(6, dtype="<f4").tobytes())
    assert np.array_equal(np.load(io.BytesIO(data)), np.arange(6, dtype="<f4").reshape(2, 3))
    container = opened(data)
    assert same_tensors(data, container, {"array": torch.arange(6.0).reshape(2, 3)}) and not container.anomalies


@pytest.mark.parametrize("dtype", ["S3", "U2", "M8[ns]", "V4", [("a", "f4"), ("b", "i8", (2,))]])
def test_other_arrays_are_examined(dtype):
    """Arrays of text, dates and records hold nothing to run; they are left out of the tensors by name."""
    container = opened(npy(np.zeros(3, dtype=dtype)))
    assert container.anomalies == () and container.skipped == ()
    assert len(container.state_dict) == 0 and container.state_dict.leftovers[0].unread


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }   \n",
        b"{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }\n",
        b'{"descr": "|O", "fortran_order": False, "shape": (1,)}\n',
        b"{'shape': (1,), 'fortran_order': False, 'descr': 'O'}",
        b"\xff\xff",
        b"",
    ],
)
def test_pickles_of_objects_are_traced(header, version):
    """However the header says so, a pickle after it is traced, and one alone never passes for a plain array."""
    for protocol in (0, 2, 4):
        assert imports(opened(with_header(header, hostile(protocol), version))) >= EVIL


def test_sound_arrays_of_objects():
    """An array of harmless objects is a pickle that is fully understood."""
    container = opened(npy(np.array([None, "a"], dtype=object)))
    assert container.anomalies == () and container.skipped == ()
    assert [each.role for each in container.pickles] == ["other"]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (npy(np.arange(9.0))[:-1], "numpy.truncated"),
        (npy(np.arange(9.0)) + b"!", "numpy.trailing-bytes"),
        (npy(np.arange(9.0))[:40], "numpy.header"),
        (with_header(b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,), }\n"), "numpy.header"),
        (with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "numpy.header"),
        (with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9, " * 99 + b"), }\n"), "numpy.header"),
        (
            with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 19 + b",), }\n"),
            "numpy.truncated",
        ),
        (b"\x93NUMPY\x09\0\0\0", "numpy.header"),
        (with_header(b" " * 70_000, version=2), "numpy.header"),
    ],
)
def test_headers_are_not_believed(data, rule):
    """A header that the bytes do not bear out, or that numpy does not write, is told."""
    assert rule in rules(opened(data))


def test_archives_of_arrays():
    """An .npz of plain arrays is fully examined, and its arrays are tensors by their names in it."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b.c": np.arange(3, dtype="f2")}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    container = opened(data, "x.npz")
    assert (container.kind, container.anomalies, container.skipped) == ("zip", (), ())
    assert same_tensors(data, container, {name: torch.from_numpy(array) for name, array in arrays.items()})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    packed = opened(buffer.getvalue(), "x.npz")
    assert packed.anomalies == () and packed.skipped == ()
    assert not any(tensor.storage.plain for tensor in packed.state_dict.values())


@pytest.mark.parametrize("method", [0, 8])
def test_nothing_in_an_archive_of_arrays_is_left_out(method):
    """Arrays that are no tensors are told by their names, and two of one name are told, not lost."""
    parts = [Part("a.npy", npy(np.ones(2))), Part("text.npy", npy(np.array(["x"]))), Part("a", npy(np.zeros(3)))]
    for part in parts:
        part.method = method
    container = opened(build_zip(parts))
    assert list(container.state_dict) == ["a"] and rules(container) == {"tensor.name-collision"}
    assert [(left.path, left.unread) for left in container.state_dict.leftovers] == [("text", True)]


def test_objects_in_archives_of_arrays():
    """An array of objects in an .npz is traced, compressed or not."""
    evil = with_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", hostile())
    for method in (0, 8):
        assert imports(opened(build_zip([Part("a.npy", npy(np.ones(2))), Part("b.npy", evil, method=method)]))) >= EVIL


@settings(max_examples=200)
@given(st.binary(max_size=200), st.binary(max_size=50), st.sampled_from([1, 2, 3]))
def test_no_header_makes_it_raise(header, after, version):
    """Any bytes for a header open as something."""
    container = opened(with_header(header, after, version))
    assert container.kind == "numpy"
    assert container.anomalies
