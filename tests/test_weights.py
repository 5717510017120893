"""What ``load_state_dict`` gives is what ``torch.load`` gives of the same file, and it runs nothing of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import modelhub
from modelhub.container import open_path
from modelhub.errors import (
    ChangedDuringRead,
    LimitExceeded,
    Malformed,
    MissingExtra,
    NotFound,
    Truncated,
    UnknownContainer,
    UnsupportedDtype,
    UnsupportedLayout,
)
from modelhub.samples.pickling import Call, Import
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.source import BytesSource
from modelhub.tensors import DType, StorageRef, TensorInfo
from modelhub.weights.numpy_arrays import NumPyMaker
from modelhub.weights.reading import read_arrays
from modelhub.weights.torch_arrays import TorchMaker
from tests.container.test_matrix import views, written

Q8 = gguf.GGMLQuantizationType.Q8_0
ROOT = Path(__file__).parents[1]
TYPED = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
TYPED += [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]
UNTYPED = [torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e4m3fn, torch.float8_e5m2]
UNTYPED += [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2]
FLOAT8 = [dtype for dtype in UNTYPED if str(dtype).startswith("torch.float8")]


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path: Path):
    """torch.save in the zip format, and in the format before it."""

    def save(value: object, name: str = "model.ckpt") -> Path:
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=request.param == "zip")
        return tmp_path / name

    save.form = request.param
    return save


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def random_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    width = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (width * int(np.prod(shape)),), dtype=torch.uint8)
    return (raw % 2 if dtype is torch.bool else raw).view(dtype).reshape(shape)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        got = found[name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape), name
        assert (got.is_conj(), got.is_neg()) == (tensor.is_conj(), tensor.is_neg()), name
        if tensor.numel():
            assert got.stride() == tensor.stride(), name
            assert bits(got.resolve_conj().resolve_neg()) == bits(tensor.resolve_conj().resolve_neg()), name


@pytest.mark.parametrize(
    ("save", "dtype"),
    [("zip", dtype) for dtype in TYPED + UNTYPED] + [("legacy", dtype) for dtype in TYPED],
    indirect=["save"],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_element_type_is_loaded_bit_for_bit(save, dtype):
    """All element types that torch itself can load back from each format, NaN payloads and all."""
    tensors = {"w": random_bits(dtype, 4, 6), "one": random_bits(dtype, 1)}
    if dtype is not torch.float4_e2m1fn_x2:  # two elements in one byte have no shape without dimensions
        tensors["scalar"] = random_bits(dtype, 1)[0]
    path = save(tensors)
    assert_same(modelhub.load_state_dict(path), torch.load(path))


def test_views_keep_their_strides(save):
    """Slices, transposed, strided, expanded, channels-last, conjugated and negated views are what torch.load gives."""
    base = torch.randn(40, 60)
    complexes = torch.randn(2, 3, 4, dtype=torch.complex64)
    path = save(
        {
            "slice": base[5:9],
            "columns": base[:, 3:7],
            "transposed": torch.randn(30, 50).T,
            "channels_last": torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last),
            "strided": torch.arange(100, dtype=torch.int16)[3::7],
            "expanded": torch.randn(5).expand(4, 5),
            "conjugated": complexes[0].clone().conj(),
            "negated": complexes[1].clone().conj().imag,
            "empty": torch.empty(0, 7).T,
            "scalar": torch.tensor(2.5),
        }
    )
    assert_same(modelhub.load_state_dict(path), torch.load(path))


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_tied_weights_stay_tied(save, framework):
    """Names that share bytes in the file share memory: writing through one is seen through the other."""
    embedding = torch.randn(50, 8)
    path = save({"embed": embedding, "head": embedding.T, "row": embedding[3], "apart": torch.zeros(8)})
    found = modelhub.load_state_dict(path, framework=framework)
    found["embed"][3] = 7.0
    found["apart"][:] = 1.0
    assert (found["head"][:, 3] == 7.0).all()
    assert (found["row"] == 7.0).all()
    if framework == "pt":
        assert len({found[n].untyped_storage().data_ptr() for n in ("embed", "head", "row")}) == 1


def test_tied_weights_that_numpy_must_widen_stay_tied(save):
    """Sharing survives the change of element type."""
    weight = torch.randn(6, 4).bfloat16()
    found = modelhub.load_state_dict(save({"a": weight, "b": weight.T, "c": weight[2:4, 1:]}), framework="np")
    assert np.array_equal(found["c"], weight[2:4, 1:].float().numpy())
    found["a"][2] = 5.0
    assert (found["b"][:, 2] == 5.0).all()
    assert (found["c"][0] == 5.0).all()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_numpy_has_the_values_of_types_that_it_lacks(save):
    """bfloat16, all 256 values of each 8-bit float, packed 4-bit floats and half complex are widened exactly."""
    every = torch.arange(256, dtype=torch.uint8)
    tensors = {str(dtype): every.view(dtype) for dtype in (FLOAT8 if save.form == "zip" else [])}
    tensors["bf16"] = torch.randn(70_000).bfloat16()  # more than is widened at a time
    expected = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    if save.form == "zip":
        tensors["c32"] = torch.randn(5, dtype=torch.complex64).to(torch.complex32)
        tensors["f4"] = every.view(torch.float4_e2m1fn_x2)
        expected["c32"] = tensors["c32"].to(torch.complex64).numpy()
        steps = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # the values of E2M1, OCP Microscaling Formats 1.0, table 5
        values = np.array(steps + [-step for step in steps], "f4")
        expected["f4"] = np.stack([values[np.arange(256) % 16], values[np.arange(256) // 16]], 1).reshape(-1)
    found = modelhub.load_state_dict(save(tensors), framework="np")
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values, equal_nan=True), name


def test_numpy_arrays_equal_torchs_tensors(save):
    """Every type that both have is the same values, shapes and strides; views are views."""
    base, other = torch.randn(8, 9, dtype=torch.complex64), torch.randn(3, 4, dtype=torch.complex64)
    tensors = {str(d): random_bits(d, 3, 5).T for d in TYPED if d is not torch.bfloat16}
    tensors |= {"conjugated": base.conj(), "negated": other.conj().imag, "strided": base[::2, 1::3]}
    tensors |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(3), "expanded": torch.randn(2).expand(3, 2)}
    found = modelhub.load_state_dict(save(tensors), framework="np")
    for name, tensor in tensors.items():
        expected = tensor.resolve_conj().resolve_neg().numpy()
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(expected).tobytes(), name


def test_names_are_those_of_the_unwrapped_state_dict(save):
    """The trainer's wrapper is taken off, nested dicts are joined by dots, parameters are tensors."""
    linear = torch.nn.Linear(2, 2)
    wrapped = {
        "state_dict": OrderedDict(linear.named_parameters()) | {"inner": {"x": torch.ones(1)}},
        "global_step": 3,
    }
    path = save(wrapped)
    found = modelhub.load_state_dict(path)
    assert list(found) == ["weight", "bias", "inner.x"]
    assert type(found["weight"]) is torch.Tensor
    assert not found["weight"].requires_grad
    assert torch.equal(found["weight"], linear.weight)
    assert modelhub.inspect(path).metadata["global_step"] == 3


def test_safetensors_are_loaded_alike(tmp_path):
    """One function for a mixed library."""
    tensors = {f"t{i}": random_bits(dtype, 2, 3) for i, dtype in enumerate([*TYPED[:-1], *FLOAT8])}
    save_file(tensors, tmp_path / "m.safetensors")
    found = modelhub.load_state_dict(tmp_path / "m.safetensors", framework="pt")
    assert found.keys() == tensors.keys()
    assert all(bits(found[name]) == bits(tensors[name]) for name in tensors)


def test_a_file_object_and_an_open_container_are_targets(save):
    """As for scan: a file object is read from where it stands."""
    path = save({"w": torch.arange(5)})
    stream = io.BytesIO(b"before" + path.read_bytes())
    stream.seek(6)
    assert torch.equal(modelhub.load_state_dict(stream)["w"], torch.arange(5))
    with open_path(path) as container:
        assert torch.equal(modelhub.load_state_dict(container)["w"], torch.arange(5))


def test_the_arrays_are_the_callers_own(save):
    """They can be written and resized, and the file may go away."""
    path = save({"w": torch.arange(5)})
    tensor = modelhub.load_state_dict(path)["w"]
    path.unlink()
    tensor += 1
    tensor.untyped_storage().resize_(0)
    assert tensor.untyped_storage().nbytes() == 0


def big_endian(path: Path, target: Path) -> None:
    """Rewrite *path* as a big-endian machine's torch.save would: its storages are of float32 or complex64."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if "/data/" in info.filename:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            elif info.filename.endswith("byteorder"):
                data = b"big"
            new.writestr(info.filename, data)


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_big_endian_files_are_turned_around(tmp_path, framework):
    """Checkpoints of mainframes; tied tensors stay tied."""
    base = torch.randn(30, 40)
    torch.save({"w": base, "t": base.T[2:5], "c": torch.randn(5, dtype=torch.complex64)}, tmp_path / "little.pt")
    big_endian(tmp_path / "little.pt", tmp_path / "big.pt")
    expected = torch.load(tmp_path / "big.pt")
    assert torch.equal(expected["w"], base)
    found = modelhub.load_state_dict(tmp_path / "big.pt", framework=framework)
    assert all(bits(torch.as_tensor(found[name])) == bits(expected[name]) for name in expected)
    found["w"][:] = 0
    assert (found["t"] == 0).all()


def hostile(path: Path, marker: Path) -> Path:
    """A checkpoint that would create *marker* when it is unpickled."""
    weights = random_weights({"w": (DType.F32, (4, 4))}, seed=1)
    write_torch_zip(path, weights, before=[Call(Import("os", "mkdir"), (str(marker),))])
    return path


def test_what_is_not_safe_is_refused_and_nothing_of_it_is_run(tmp_path):
    """The error carries the report; salvaging gives the tensors, and the payload has not run in either case."""
    path = hostile(tmp_path / "bad.pt", tmp_path / "marker")
    with pytest.raises(modelhub.UnsafeModelError, match=r"bad\.pt: not loaded, because it is unsafe: .*os") as caught:
        modelhub.load_state_dict(path)
    assert caught.value.report.verdict is modelhub.Verdict.UNSAFE
    assert "salvage=True" in caught.value.hint
    assert modelhub.load_state_dict(path, salvage=True)["w"].shape == (4, 4)
    assert not (tmp_path / "marker").exists()


def test_what_is_unknown_is_refused_as_well(tmp_path):
    """A whole pickled network is no malware, but it is not proven either; its weights can be salvaged."""
    module = torch.nn.Linear(3, 2)
    torch.save(module, tmp_path / "module.pt")
    with pytest.raises(modelhub.UnsafeModelError, match="because it is unknown"):
        modelhub.load_state_dict(tmp_path / "module.pt")
    found = modelhub.load_state_dict(tmp_path / "module.pt", salvage=True)
    assert torch.equal(found["weight"], module.weight)


def test_a_truncated_file_is_an_error_even_when_salvaged(save):
    """A state dict that lacks some of its weights would be worse than none."""
    path = save({"w": torch.randn(1000), "v": torch.randn(1000)})
    os.truncate(path, path.stat().st_size - 3000)
    for salvage in (False, True):
        with pytest.raises(Truncated, match=r"model\.ckpt"):
            modelhub.load_state_dict(path, salvage=salvage)


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(save):
    """The process lives on, which it would not if the file were mapped."""
    path = save({"w": torch.randn(100_000)})
    with open_path(path) as container:
        os.truncate(path, 1000)
        with pytest.raises(ChangedDuringRead, match="became shorter"):
            modelhub.load_state_dict(container)


def test_a_file_that_is_rewritten_while_it_is_read_is_an_error(save):
    """The verdict was on other bytes."""
    path = save({"w": torch.randn(1000)})
    with open_path(path) as container:
        os.utime(path, (1, 1))
        with pytest.raises(ChangedDuringRead, match="it changed"):
            modelhub.load_state_dict(container)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.eye(3).to_sparse(), id="sparse"),
        pytest.param(lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), id="quantised"),
        pytest.param(lambda: torch.empty(2, 2, device="meta"), id="without data"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds_are_refused_and_not_left_out(tmp_path, make):
    """A state dict without some of its weights would be loaded without a word by strict=False."""
    torch.save({"fine": torch.ones(2), "w": make()}, tmp_path / "m.pt")
    with pytest.raises((UnsupportedLayout, UnsupportedDtype), match=r"tensor 'w' "):
        modelhub.load_state_dict(tmp_path / "m.pt", salvage=True)


def test_what_holds_no_weights_is_an_error(tmp_path):
    """Missing files, folders and other kinds of files each have their own."""
    with pytest.raises(NotFound):
        modelhub.load_state_dict(tmp_path / "missing.pt")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(UnknownContainer, match=r"page\.ckpt: an HTML or XML page"):
        modelhub.load_state_dict(tmp_path / "page.ckpt")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(UnknownContainer, match="a folder"):
        modelhub.load_state_dict(tmp_path / "pipeline", salvage=True)


def test_an_unknown_framework_is_a_mistake(save):
    """Not silently another one."""
    with pytest.raises(ValueError, match="'np', 'pt' or None, not 'tf'"):
        modelhub.load_state_dict(save({"w": torch.ones(1)}), framework="tf")


def without(*modules: str) -> str:
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r})); import modelhub; path = sys.argv[1]\n"


def run(code: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_without_torch_there_are_numpy_arrays(save):
    """numpy stands in where torch is not installed, and an unmet wish says what to install."""
    path = save({"w": torch.arange(3)})
    assert run(without("torch") + "print(type(modelhub.load_state_dict(path)['w']))", path) == "<class 'numpy.ndarray'>"
    ask = "\ntry: modelhub.load_state_dict(path{})\nexcept modelhub.errors.MissingExtra as e: print(e, '-', e.hint)"
    assert run(without("torch") + ask.format(", framework='pt'"), path).startswith("torch is not installed - ")
    assert run(without("numpy") + ask.format(", framework='np'"), path).startswith("numpy is not installed - ")
    assert "torch nor numpy" in run(without("torch", "numpy") + ask.format(""), path)
    assert issubclass(MissingExtra, modelhub.errors.ModelHubError)


def test_numpy_arrays_are_made_without_importing_torch(save):
    """A program that wants numpy does not pay for torch's start."""
    code = "import sys, modelhub; modelhub.load_state_dict(sys.argv[1], framework='np'); print('torch' in sys.modules)"
    assert run(code, save({"w": torch.arange(3)})) == "False"


def test_memory_is_that_of_the_weights(tmp_path):
    """Reading 64 MiB of weights takes 64 MiB and a few more, for numpy's widened types as for torch's."""
    weights = random_weights({f"w{i}": (DType.BF16, (1024, 1024)) for i in range(32)}, seed=1)
    write_torch_zip(tmp_path / "m.ckpt", weights)
    code = """if True:
        import resource, sys
        import modelhub, {module}
        modelhub.load_state_dict(sys.argv[2], framework=sys.argv[3])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = modelhub.load_state_dict(sys.argv[1], framework=sys.argv[3])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    write_torch_zip(tmp_path / "small.ckpt", random_weights({"w": (DType.BF16, (64, 64))}, seed=1))
    for framework, module, size in (("pt", "torch", 64), ("np", "numpy", 128)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(module=module), tmp_path / "m.ckpt", tmp_path / "small.ckpt", framework],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert int(done.stdout) < (size + 16) * 1024


@pytest.mark.parametrize("framework", ["pt", "np"])
@pytest.mark.parametrize("form", ["deflated-zip", "tar", "pickle-2", "arrays-2", "npz", "deflated-npz"])
def test_other_formats(form, framework, tmp_path):
    """Whatever file the weights are in, they are what was saved, tied and strided ones too."""
    tensors = views("float32")
    (tmp_path / "m.bin").write_bytes(written(form, tensors, tmp_path))
    found = modelhub.load_state_dict(tmp_path / "m.bin", framework=framework)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert np.array_equal(np.asarray(found[name]), tensor.numpy())


def test_arrays_of_objects_are_refused_by_name(tmp_path):
    """A file of arrays that lacks one of them would be worse than none."""
    np.savez(tmp_path / "m.npz", w=np.ones(2), labels=np.array(["a"]))
    with pytest.raises(UnsupportedLayout, match=r"tensor 'labels' .* NumPy array"):
        modelhub.load_state_dict(tmp_path / "m.npz")


def test_quantised_files_are_refused_by_type(tmp_path):
    """ggml's blocks are not elements that an array could have."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "sd1")
    writer.add_tensor("w", gguf.quants.quantize(np.ones((2, 32), "f4"), Q8), raw_dtype=Q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedLayout, match=r"tensor 'w' .* Q8_0"):
        modelhub.load_state_dict(tmp_path / "m.gguf")


STORAGE = StorageRef("0", 24, 64)


def tensor(shape, strides=None, offset=0, dtype=DType.F32, storage=STORAGE) -> TensorInfo:
    return TensorInfo("t", dtype, shape, storage, offset, strides)


@pytest.mark.parametrize("maker", [TorchMaker(), NumPyMaker()], ids=["pt", "np"])
def test_shapes_that_no_array_can_have_are_errors(maker):
    """Numbers beyond any machine's are refused in a sentence, not with the framework's own error."""
    source = BytesSource("file", bytes(88))
    for odd in (tensor((0, 1 << 100)), tensor((2, 1, 2), (2, 1 << 80, 1)), tensor((1,) * 70, (3,) * 70)):
        if maker.framework == "torch" and len(odd.shape) == 70:
            continue  # torch has no limit there
        with pytest.raises(Malformed, match="there can be no tensor 't'"):
            read_arrays([odd], source, maker)


@pytest.mark.parametrize("maker", [TorchMaker(), NumPyMaker()], ids=["pt", "np"])
def test_storages_that_claim_many_times_the_file_are_refused(maker):
    """Overlapping archive members must not make a small file fill the memory."""
    source = BytesSource("file", bytes(1 << 20))
    storages = [StorageRef(str(i), 0, 1 << 20) for i in range(100)]
    tensors = [TensorInfo(f"t{s.key}", DType.U8, (1 << 20,), s) for s in storages]
    with pytest.raises(LimitExceeded, match="file: its 1,048,576 bytes would become 104,857,600"):
        read_arrays(tensors, source, maker)


@pytest.mark.parametrize("maker", [TorchMaker(), NumPyMaker()], ids=["pt", "np"])
def test_expanded_tensors_cost_nothing_unless_they_must_be_computed(maker):
    """A view of gigabytes over one element is only a view, but its conjugate would be gigabytes."""
    source = BytesSource("file", bytes(24 + 64))
    huge = tensor((1 << 40,), (0,), dtype=DType.C64)
    assert read_arrays([huge], source, maker)["t"].shape == (1 << 40,)
    with pytest.raises(LimitExceeded):
        read_arrays([huge._replace(conj=True)], source, maker)


CODES = {DType.U8: "u1", DType.I16: "i2", DType.F32: "f4", DType.I64: "i8", DType.C64: "c8", DType.C128: "c16"}


@st.composite
def layouts(draw):
    """A storage's bytes and some tensors over it, each within it."""
    size = draw(st.integers(16, 200))
    byteorder = draw(st.sampled_from(["little", "big"]))
    storage = StorageRef("0", draw(st.integers(0, 9)), size, byteorder)
    tensors = []
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(list(CODES)))
        room = size // dtype.itemsize
        offset = draw(st.integers(0, room - 1))
        shape, strides, reach = [], [], 0
        for _ in range(draw(st.integers(0, 3))):
            stride = draw(st.integers(0, 6))
            most = 4 if stride == 0 else (room - 1 - offset - reach) // stride + 1
            n = draw(st.integers(1, max(1, min(5, most))))
            reach += (n - 1) * stride
            shape.append(n)
            strides.append(stride)
        tensors.append(TensorInfo(f"t{i}", dtype, tuple(shape), storage, offset * dtype.itemsize, tuple(strides)))
    return tensors, draw(st.binary(min_size=storage.start + size, max_size=storage.start + size))


@given(layouts(), st.sampled_from(["pt", "np"]))
def test_any_layout_is_read_as_it_is_defined(layout, framework):
    """Whatever tensors of whatever types look at a storage, each has the elements that its numbers say."""
    tensors, data = layout
    arrays = read_arrays(tensors, BytesSource("file", data), TorchMaker() if framework == "pt" else NumPyMaker())
    for each in tensors:
        start, end = each.storage.start, each.storage.start + each.storage.nbytes
        order = "<" if each.storage.byteorder == "little" else ">"
        count = (end - start - each.offset) // each.dtype.itemsize
        flat = np.frombuffer(data, order + CODES[each.dtype], count, start + each.offset)
        strides = [stride * each.dtype.itemsize for stride in each.strides]
        expected = np.lib.stride_tricks.as_strided(flat, each.shape, strides).astype(CODES[each.dtype])
        assert np.asarray(arrays[each.name]).tobytes() == expected.tobytes()
