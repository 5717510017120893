"""Bare pickles of arrays and tensors, compared with what numpy and torch themselves load of them."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelhub.container import Container, open_container
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.scan import Verdict, scan
from modelhub.source import BytesSource
from modelhub.weights.numpy_arrays import NumPyMaker
from modelhub.weights.reading import read_arrays
from modelhub.weights.torch_arrays import TorchMaker
from tests.container.build import build_zip, saved, split_checkpoint
from tests.container.build import opened as opened_bytes

PROTOCOLS = range(6)
DTYPES = ["?", "i1", "u1", "<i2", ">u2", "<i4", ">i4", "<i8", ">u8", "<f2", ">f2", "<f4", ">f4", "<f8", "<c8", ">c16"]


def opened(value: object, protocol: int) -> Container:
    return open_container(BytesSource("x.pkl", pickle.dumps(value, protocol)))


def as_numpy(container: Container) -> dict[str, np.ndarray]:
    assert container.source is not None and container.state_dict is not None
    return read_arrays(container.state_dict.values(), container.source, NumPyMaker())


def same(found: np.ndarray, array: np.ndarray) -> bool:
    """Equal in type (but for the byte order), shape and every bit."""
    native = array.dtype.newbyteorder("=")
    return (found.dtype, found.shape) == (native, array.shape) and found.tobytes() == array.astype(native).tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [5, 2000])
def test_arrays_of_every_type_in_every_protocol(protocol, dtype, size):
    """Short and long arrays, in C and Fortran order, are those that numpy unpickles, whatever the protocol."""
    if protocol == 0 and size == 2000:
        size = 30  # a line of text is only read up to 64 KiB
    whole = np.arange(size * 12).reshape(size, 3, 4).astype(dtype)
    values = {"c": whole, "f": np.asfortranarray(whole), "t": whole.transpose(2, 0, 1), "part": whole[1:3, :, ::2]}
    container = opened(OrderedDict(values), protocol)
    assert (container.anomalies, container.skipped, container.state_dict.leftovers) == ((), (), ())
    found = as_numpy(container)
    assert list(found) == list(values)
    assert all(same(found[name], array) for name, array in values.items())
    assert scan(container).verdict is Verdict.SAFE


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.text("ab.", max_size=3),
        arrays.arrays(
            st.sampled_from([np.dtype(d) for d in DTYPES]), arrays.array_shapes(min_dims=0, min_side=0, max_side=4)
        ),
        max_size=4,
    ),
    st.sampled_from(PROTOCOLS),
    st.booleans(),
)
def test_any_arrays(values, protocol, listed):
    """Any arrays, those without dimensions or elements among them, in a dict or a list."""
    value = list(values.values()) if listed else values
    found = as_numpy(opened(value, protocol))
    expected = {str(i): array for i, array in enumerate(value)} if listed else values
    assert found.keys() == expected.keys()
    assert all(same(found[name], array) for name, array in expected.items())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([None, {}], object), "Python objects"),
        (np.array(["a", "bc"]), "text"),
        (np.array([b"a", b"bc"]), "byte strings"),
        (np.zeros(2, [("a", "f4"), ("b", "i2")]), "records"),
        (np.array(["2026-01-01"], "M8[D]"), "dates"),
    ],
)
def test_arrays_of_what_no_tensor_holds_are_told(protocol, array, words):
    """Arrays of objects, text, records and dates are named with their kind, never left out."""
    container = opened({"w": np.zeros(2, "f4"), "odd": array}, protocol)
    assert list(container.state_dict) == ["w"]
    (left,) = container.state_dict.leftovers
    assert (left.path, left.unread) == ("odd", True) and words in left.description


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_are_plain_values(protocol):
    """numpy's scalars are the numbers that they stand for."""
    scalars = {"f": np.float64(0.5), "h": np.float16(2), "i": np.int64(-7), "b": np.bool_(True)}
    container = opened({"w": np.zeros(2, "f4"), **scalars}, protocol)
    assert container.state_dict.scalars == {name: value.item() for name, value in scalars.items()}


def same_tensors(container: Container, expected: dict[str, torch.Tensor]) -> bool:
    assert container.source is not None and container.state_dict is not None
    found = read_arrays(container.state_dict.values(), container.source, TorchMaker())
    assert found.keys() == expected.keys()
    return all(
        (found[k].dtype, found[k].shape) == (t.dtype, t.shape) and torch.equal(found[k], t) for k, t in expected.items()
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [3, 300])
def test_tensors_that_were_pickled_without_torch(protocol, size):
    """Each storage is a legacy file in the pickle: read in place, or out of the text that protocol 2 makes of it."""
    base = torch.randn(size, 64)
    tensors = {
        "w": base,
        "t": base.t(),
        "part": base[1:2, 3:9],
        "half": base.half(),
        "brain": base.bfloat16(),
        "long": torch.arange(size * 64) - 5,
        "bool": base > 0,
        "one": torch.tensor(7.0),
        "none": base[:0],
        "p": torch.nn.Parameter(base.clone()),
    }
    container = opened(tensors, protocol)
    assert same_tensors(container, {k: t.detach() for k, t in tensors.items()})
    assert scan(container).verdict is Verdict.SAFE


def test_a_cut_off_nested_storage_is_told():
    """A storage whose announced size is more than the bytes that are there is an anomaly, not a tensor."""
    data = pickle.dumps({"w": torch.arange(1000.0)}, 3)
    size = (1000).to_bytes(2, "little")
    assert data.count(size) >= 2
    lying = data.replace(b"M" + size, b"M" + (2000).to_bytes(2, "little")).replace(
        (1000).to_bytes(8, "little"), (2000).to_bytes(8, "little")
    )
    container = open_container(BytesSource("x.pkl", lying))
    assert not container.state_dict
    assert "tensor.out-of-bounds" in {odd.rule for odd in container.anomalies}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_in_a_checkpoint(protocol, size):
    """numpy's arrays beside torch's tensors lie in the checkpoint's pickle, be that compressed or not."""
    array = np.arange(size, dtype=">u2")
    data = saved({"w": torch.arange(5.0), "array": array}, protocol=protocol)
    for method in (0, 8):
        parts = split_checkpoint(data)
        for part in parts:
            part.method = method
        container = opened_bytes(build_zip(parts))
        text = protocol == 2 and size > 10 and method == 8
        assert set(container.state_dict) == ({"w"} if text else {"w", "array"})
        if text:
            (left,) = container.state_dict.leftovers
            assert left.unread and "text in a compressed pickle" in left.description
        else:
            assert same(as_numpy(container)["array"], array)


def test_a_literal_that_many_share_is_kept_once():
    """Thousands of arrays and storages over the same bytes of the pickle take no more memory than one."""
    shared = np.arange(20_000, dtype="u1").tobytes().decode("latin-1")
    kind = Call(Import("numpy", "dtype"), ("u1", False, True), state=(3, "|", None, None, None, -1, -1, 0))
    literal = Call(Import("_codecs", "encode"), (shared, "latin1"))
    made = [
        Call(Import("numpy._core.multiarray", "_reconstruct"), (Import("numpy", "ndarray"), (0,), b"b"), state=state)
        for state in [(1, (20_000,), kind, False, literal)] * 3000
    ]
    tracemalloc.start()
    container = opened_bytes(dumps(made))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(container.state_dict) == 3000
    assert peak < 30 << 20
