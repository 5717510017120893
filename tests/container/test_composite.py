"""Tensors that are not made of one storage: named with their kind, and with parts that make up their values."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from modelhub.samples.pickling import Call, Import, dumps
from modelhub.source import BytesSource
from modelhub.tensors import Leftover, QuantizedTensor, SparseTensor, TensorInfo
from modelhub.weights.reading import read_arrays
from modelhub.weights.torch_arrays import TorchMaker
from tests.container.build import build_zip, opened, rules, saved, torch_parts

pytestmark = pytest.mark.filterwarnings("ignore:.*(quantize|Sparse|nested|TypedStorage|sparse)")


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def left(request):
    """The leftover that a tensor saved by torch is, and a reader of its parts."""

    def left(tensor: torch.Tensor) -> tuple[Leftover, object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = saved({"fine": torch.ones(2), "w": tensor}, legacy=request.param)
        container = opened(data)
        assert list(container.state_dict) == ["fine"] and not rules(container)
        (found,) = container.state_dict.leftovers
        assert (found.path, found.unread) == ("w", True)

        def values(info: TensorInfo) -> torch.Tensor:
            named = info._replace(name="it")
            return read_arrays([named], BytesSource("file", data), TorchMaker())["it"]

        return found, values

    return left


MATRIX = torch.tensor([[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, -3.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]])


def test_sparse_coordinates(left):
    """Indices and values of a COO tensor, hybrid ones among them, make up its dense form."""
    stack = torch.stack([MATRIX, 2 * MATRIX], 2)
    twice = torch.sparse_coo_tensor([[1, 1, 0]], [2.0, 3.0, 4.0], (3,))
    for sparse in (MATRIX.to_sparse(), stack.to_sparse(2), MATRIX.half().to_sparse(), twice):
        found, values = left(sparse)
        made = found.structure
        assert isinstance(made, SparseTensor) and "sparse" in found.description
        assert (made.layout, made.shape, made.coalesced) == ("coo", tuple(sparse.shape), sparse.is_coalesced())
        dense = torch.sparse_coo_tensor(values(made.indices[0]), values(made.values), made.shape).to_dense()
        assert torch.equal(dense, sparse.to_dense())


@pytest.mark.parametrize(
    ("layout", "kind"),
    [("csr", torch.sparse_csr), ("csc", torch.sparse_csc), ("bsr", torch.sparse_bsr), ("bsc", torch.sparse_bsc)],
)
def test_sparse_compressed(left, layout, kind):
    """Compressed and plain indices, and the values or blocks."""
    sparse = MATRIX.to_sparse(layout=kind, blocksize=(2, 2) if layout.startswith("b") else None)
    found, values = left(sparse)
    made = found.structure
    assert isinstance(made, SparseTensor) and layout in found.description
    assert (made.layout, made.shape) == (layout, (4, 4))
    parts = [values(part) for part in (*made.indices, made.values)]
    assert torch.equal(torch.sparse_compressed_tensor(*parts, made.shape, layout=kind).to_dense(), MATRIX)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_quantised_with_one_scale(left, dtype):
    """Integers, scale and zero point give the values."""
    tensor = torch.quantize_per_tensor(torch.randn(3, 5), 0.05, 7, dtype)
    found, values = left(tensor)
    made = found.structure
    assert isinstance(made, QuantizedTensor) and "quantised" in found.description and made.axis is None
    integers = values(made.values)
    assert integers.dtype == tensor.int_repr().dtype
    assert torch.equal(((integers.float() - made.zero_point) * made.scale), tensor.dequantize())


@pytest.mark.parametrize("axis", [0, 1])
def test_quantised_by_channel(left, axis):
    """Scales and zero points are tensors of one element for each channel."""
    scales, zeros = torch.tensor([0.1, 0.5, 2.0])[: 3 - axis], torch.tensor([0, 3, -4])[: 3 - axis]
    tensor = torch.quantize_per_channel(torch.randn(3, 2), scales, zeros, axis, torch.qint8)
    found, values = left(tensor)
    made = found.structure
    assert isinstance(made, QuantizedTensor) and made.axis == axis
    shape = [1, 1]
    shape[axis] = -1
    scale, zero = values(made.scale).reshape(shape), values(made.zero_point).reshape(shape)
    assert torch.equal(((values(made.values) - zero) * scale).float(), tensor.dequantize())


def test_parameters_of_composite_tensors_are_unwrapped(left):
    """A parameter is what it wraps."""
    found, _ = left(torch.nn.Parameter(MATRIX.to_sparse()))
    assert isinstance(found.structure, SparseTensor)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (lambda: torch.empty(2, 3, device="meta"), "meta device"),
    ],
)
def test_tensors_without_elements_of_their_own_are_named(left, make, words):
    """There is nothing to read of them, and the sentence says why."""
    found, _ = left(make())
    assert words in found.description and found.structure is None


ARRAY = Call(
    Import("numpy._core.multiarray", "_reconstruct"),
    (Import("numpy", "ndarray"), (0,), b"b"),
    state=(
        *(1, (2, 3), Call(Import("numpy", "dtype"), ("f4", False, True), state=(3, "<", None, None, None, -1, -1, 0))),
        *(False, np.arange(6, dtype="<f4").tobytes()),
    ),
)


def test_tensors_of_devices_that_were_saved_as_arrays():
    """A tensor of a device without storages is the array that it was saved as, if it keeps its element type."""
    function = Import("torch._utils", "_rebuild_device_tensor_from_numpy")
    value = {
        "w": Call(function, (ARRAY, Import("torch", "float32"), "xla:0", False)),
        "brain": Call(function, (ARRAY, Import("torch", "bfloat16"), "xla:0", False)),
        "own": Call(Import("torch._utils", "_rebuild_wrapper_subclass"), (Import("lib", "Tensor"),)),
    }
    container = opened(build_zip(torch_parts(dumps(value))))
    found = read_arrays(container.state_dict.values(), container.source, TorchMaker())
    assert list(found) == ["w"] and torch.equal(found["w"], torch.arange(6.0).reshape(2, 3))
    told = {left.path: left.description for left in container.state_dict.leftovers}
    assert "float32, to be loaded as bfloat16" in told["brain"] and "lib.Tensor" in told["own"]


def test_parts_that_do_not_fit_have_no_structure():
    """Indices of another shape than the values, or scales for other channels, are not handed on."""
    function = Import("torch._utils", "_rebuild_sparse_tensor")
    layout = Call(Import("torch.serialization", "_get_layout"), ("torch.sparse_coo",))
    value = {"w": Call(function, (layout, (ARRAY, ARRAY, Call(Import("torch", "Size"), ((4, 4),)), True)))}
    (left,) = opened(build_zip(torch_parts(dumps(value)))).state_dict.leftovers
    assert left.unread and left.structure is None and "sparse" in left.description
