"""What torch saved is what the converted file holds, tensor for tensor and, where it can be, byte for byte."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelhub.convert import Conversion, ConversionPlan, convert, default_target
from modelhub.errors import (
    Malformed,
    NotFound,
    NothingToConvert,
    Truncated,
    UnknownContainer,
    UnsafeModelError,
    UnsupportedDtype,
    UnsupportedLayout,
    WouldOverwrite,
)
from modelhub.scan import Verdict

TYPED = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
TYPED += [torch.int8, torch.uint8, torch.bool, torch.complex64]
UNTYPED = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
UNTYPED += [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path: Path):
    """torch.save in the zip format, and in the format before it."""

    def save(value: object, name: str = "model.ckpt", **options) -> Path:
        path = tmp_path / name
        torch.save(value, path, _use_new_zipfile_serialization=request.param == "zip", **options)
        return path

    save.form = request.param
    return save


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def assert_equal(path: Path | str, expected: dict[str, torch.Tensor]) -> None:
    """The file has exactly the tensors of *expected*: names, dtypes, shapes and every bit."""
    found = load_file(path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        if tensor.numel():
            assert bytes_of(found[name]) == bytes_of(tensor), name


def metadata_of(path: Path | str) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def weights(*shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    torch.manual_seed(len(shapes))
    return {f"model.layer.{i}.weight": torch.randn(shape).half() for i, shape in enumerate(shapes)}


def test_a_checkpoint_is_converted_beside_itself(save):
    """convert(path) alone writes PATH with the ending .safetensors and returns what it did."""
    expected = weights((64, 32), (32,), (700, 900))
    source = save(expected)
    done = convert(source)
    assert isinstance(done, Conversion)
    assert done.target == str(source.with_suffix(".safetensors"))
    assert_equal(done.target, expected)


def test_a_flat_state_dict_becomes_byte_for_byte_what_the_library_writes(save, tmp_path):
    """Hashes match conversions made elsewhere with save_file(state_dict, metadata={"format": "pt"})."""
    expected = weights((64, 32), (), (0, 4), (3, 5, 7))
    expected |= {'ключ " \\ \n \x7f': torch.arange(5), " ": torch.tensor([True, False, True])}
    expected |= {f"t{i}": torch.zeros(3, dtype=dtype) for i, dtype in enumerate(TYPED)}
    save_file(expected, tmp_path / "reference.safetensors", metadata={"format": "pt"})
    done = convert(save(expected))
    assert Path(done.target).read_bytes() == (tmp_path / "reference.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", TYPED + UNTYPED, ids=str)
def test_every_element_type_is_copied_bit_for_bit(save, dtype):
    """All types that torch and safetensors share, NaN payloads and all."""
    if dtype in UNTYPED and save.form == "legacy":
        save.form = "zip"  # torch itself cannot load these back in the old format
    width = torch.empty((), dtype=dtype).element_size()
    random = torch.randint(0, 256, (24 * width,), dtype=torch.uint8)
    random = random % 2 if dtype is torch.bool else random
    expected = {"w": random.view(dtype).reshape(4, 6), "scalar": random.view(dtype)[0].clone()}
    done = convert(save(expected))
    assert_equal(done.target, expected)


def test_two_4_bit_elements_of_a_byte_are_counted_apart(tmp_path):
    """torch's packed float4 (4, 8) is [4, 16] in safetensors, as its own writer has it."""
    packed = torch.randint(0, 256, (4, 8), dtype=torch.uint8)
    torch.save({"w": packed.view(torch.float4_e2m1fn_x2)}, tmp_path / "m.pt")
    done = convert(tmp_path / "m.pt")
    with safe_open(done.target, framework="pt") as file:
        assert (file.get_slice("w").get_dtype(), file.get_slice("w").get_shape()) == ("F4", [4, 16])
    assert Path(done.target).read_bytes()[-32:] == bytes_of(packed)


def test_views_are_written_as_what_they_show(save):
    """Slices, transposed, channels-last, strided and expanded tensors come out contiguous."""
    base = torch.randn(40, 60)
    expected = {
        "slice": base[5:9],
        "columns": base[:, 3:7],
        "transposed": torch.randn(30, 50).T,
        "channels_last": torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last),
        "strided": torch.arange(100, dtype=torch.int16)[3::7],
        "expanded": torch.randn(5).expand(4, 5),
        "zero": torch.tensor(2.5).expand(3),
        "empty": torch.empty(0, 7).T,
    }
    source = save(expected)
    assert_equal(convert(source).target, torch.load(source))


def test_a_small_view_does_not_bring_its_whole_storage(save):
    """Only the bytes that a tensor shows are written."""
    source = save({"w": torch.zeros(1 << 16)[10:20]})
    assert convert(source).size < 1000


def test_tied_weights_are_copied_for_every_name(save):
    """safetensors cannot alias; a loader finds every name, and the metadata says which belonged together."""
    embedding = torch.randn(50, 8)
    expected = {"embed.weight": embedding, "head.weight": embedding, "head.transposed": embedding.T}
    done = convert(save(expected))
    assert_equal(done.target, expected)
    assert [set(group) for group in done.plan.duplicated] == [set(expected)]
    assert done.plan.duplicated_bytes == 2 * 50 * 8 * 4
    assert metadata_of(done.target).keys() == {"format", "modelhub.shared"}


def test_parameters_and_attributes_are_unwrapped(save):
    """nn.Parameter, a Parameter in an OrderedDict with attributes, and buffers are tensors like others."""
    with_state = torch.nn.Parameter(torch.randn(3))
    with_state.note = "kept by torch only"
    expected = OrderedDict(a=torch.nn.Parameter(torch.randn(2, 2)), b=with_state, c=torch.ones(2))
    done = convert(save(expected))
    assert_equal(done.target, {name: tensor.detach() for name, tensor in expected.items()})


class Callback:
    """Something of a training framework: loading it would import and make it."""


def test_a_training_checkpoint_is_unwrapped(save):
    """state_dict's tensors keep their keys, plain values become metadata, the rest is listed and left out."""
    expected = weights((8, 8), (8,))
    source = save(
        {
            "epoch": 3,
            "global_step": 840000,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": expected,
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(8, 8)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [],
            "rng_state": torch.get_rng_state(),
            "callbacks": {Callback: {"best": 1}},
        }
    )
    done = convert(source, salvage=True)
    assert_equal(done.target, expected)
    metadata = metadata_of(done.target)
    wanted = {"format": "pt", "epoch": "3", "global_step": "840000", "pytorch-lightning_version": "1.4.2"}
    assert wanted.items() <= metadata.items()
    assert {"optimizer_states", "lr_schedulers", "callbacks", "rng_state"} <= {
        item.path for item in done.plan.leftovers
    }


def test_an_embedding_is_what_loaders_expect(save):
    """A1111's .pt becomes one tensor emb_params with its name, step and checkpoint as metadata."""
    vectors = torch.randn(2, 768)
    source = save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": vectors},
            "name": "style",
            "step": 499,
            "sd_checkpoint": "e3b0c442",
            "sd_checkpoint_name": "v1-5",
        },
        "style.pt",
    )
    done = convert(source)
    assert_equal(done.target, {"emb_params": vectors})
    wanted = {"format": "pt", "name": "style", "step": "499", "sd_checkpoint": "e3b0c442", "sd_checkpoint_name": "v1-5"}
    assert metadata_of(done.target) == wanted


def test_an_original_embedding_is_read_through_its_module(save):
    """CompVis's trainer saved an nn.ParameterDict: its one parameter is the embedding."""
    vectors = torch.randn(1, 768)
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    source = save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, "learned.pt")
    done = convert(source, salvage=True)
    assert_equal(done.target, {"emb_params": vectors})


def test_a_hypernetwork_keeps_its_layers_by_path(save):
    """Integer sizes and pairs become parts of names, the settings metadata."""
    pairs = {n: tuple({"linear.0.weight": torch.randn(2 * n, n)} for _ in range(2)) for n in (32, 64)}
    source = save({**pairs, "step": 100, "layer_structure": [1, 2, 1], "use_dropout": False, "name": "hn"}, "hn.pt")
    done = convert(source)
    assert_equal(
        done.target,
        {f"{n}.{i}.linear.0.weight": pairs[n][i]["linear.0.weight"] for n in (32, 64) for i in (0, 1)},
    )
    assert {"step": "100", "use_dropout": "false", "name": "hn"}.items() <= metadata_of(done.target).items()


def rezip(path: Path, change, compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive *path* anew, with *change*(name, data) for every member's data."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))


def test_a_big_endian_checkpoint_is_turned_round(tmp_path):
    """What a big-endian machine saved has its elements' bytes reversed, complex ones by halves."""
    expected = {"w": torch.randn(4, 6), "h": torch.randn(300, 200).half(), "c": torch.randn(5, dtype=torch.complex64)}
    units = iter([4, 2, 4])
    path = tmp_path / "big.pt"
    torch.save(expected, path)

    def reverse(name: str, data: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        if "/data/" in name:
            unit = next(units)
            return b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit))
        return data

    rezip(path, reverse)
    loaded = torch.load(path)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert_equal(convert(path, salvage=True).target, expected)


def test_compressed_storages_are_unpacked(tmp_path):
    """An archive that was packed again converts to the same bytes, strided views and tied weights included."""
    path = tmp_path / "m.pt"
    base = torch.randn(64, 96)
    expected = weights((64, 64)) | {"base": base, "t": base.t(), "part": base[3:7], "column": base[:, 5]}
    torch.save(expected, path)
    rezip(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert_equal(convert(path).target, expected)


def test_a_flipped_byte_in_a_compressed_storage_is_told(tmp_path):
    """The checksum of a storage that has to be unpacked is compared, and the storage is named."""
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    rezip(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("m/data/0").CRC
    path.write_bytes(path.read_bytes().replace(crc.to_bytes(4, "little"), (crc ^ 1).to_bytes(4, "little")))
    with pytest.raises(Malformed, match=r"storage '0' does not match its checksum.* of tensor 'w'"):
        convert(path, salvage=True)
    assert os.listdir(tmp_path) == ["m.pt"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_archives_of_arrays(tmp_path, save):
    """An .npz gives the arrays that numpy loads from it, of any order and byte order."""
    arrays = {
        "c": np.arange(24.0).reshape(2, 3, 4),
        "f": np.asfortranarray(np.arange(12, dtype="f2").reshape(3, 4)),
        "big": np.arange(5, dtype=">i8"),
        "none": np.zeros((0, 3), "f4"),
        "one": np.float32(3),
        "a.b": np.array([True, False]),
    }
    save(tmp_path / "x.npz", **arrays)
    done = convert(tmp_path / "x.npz")
    assert (done.sources[0].matched, done.sources[0].unverifiable) == (len(arrays), 0)
    found = load_file(done.target)
    assert found.keys() == arrays.keys()
    for name, array in np.load(tmp_path / "x.npz").items():
        assert found[name].dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
        assert np.array_equal(found[name].numpy(), array) and found[name].shape == array.shape


LAZY = [torch.complex64, torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", LAZY, ids=str)
def test_lazily_conjugated_and_negated_tensors_are_written_as_their_values(save, dtype):
    """Their bytes in the file are not their values: other converters write wrong values here."""
    value = torch.randn(4, 6, dtype=torch.complex64).to(dtype) if dtype.is_complex else torch.randn(4, 6).to(dtype)
    lazy = {"n": torch._neg_view(value), "t": torch._neg_view(value.T)}
    if dtype.is_complex:
        lazy |= {"c": value.conj(), "i": value.clone().conj().imag, "b": torch._neg_view(value.T.conj())}
    assert all(tensor.is_neg() or tensor.is_conj() for tensor in lazy.values())
    done = convert(save(lazy), salvage=True)
    assert_equal(done.target, {name: tensor.resolve_conj().resolve_neg() for name, tensor in lazy.items()})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_lazily_negated_integers_are_negated(save, dtype):
    """Modulo their size, as torch does it."""
    value = torch.arange(-3, 125).to(dtype)
    done = convert(save({"w": torch._neg_view(value)}), salvage=True)
    assert_equal(done.target, {"w": -value})


def test_element_types_that_safetensors_lacks_are_refused(save):
    """complex128 is named, not cast."""
    with pytest.raises(UnsupportedDtype, match="'w' is of type complex128"):
        convert(save({"v": torch.ones(2), "w": torch.ones(2, dtype=torch.complex128)}))


class Malicious:
    """Loading it would create a file; nothing here may ever do that."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def test_an_unsafe_file_is_refused_and_never_run(save, tmp_path):
    """The error carries the report and says what was found; the file's code does not run, nor with salvage."""
    expected = weights((8, 8))
    source = save({**expected, "x": Malicious(tmp_path / "ran")})
    with pytest.raises(UnsafeModelError, match="not converted, because it is unsafe: ") as caught:
        convert(source)
    assert caught.value.report.verdict is Verdict.UNSAFE
    assert not source.with_suffix(".safetensors").exists()

    done = convert(source, salvage=True)
    assert_equal(done.target, expected)
    assert metadata_of(done.target)["modelhub.salvaged"] == "true"
    assert not (tmp_path / "ran").exists()


def test_salvaging_a_safe_file_says_nothing(save):
    """The metadata's mark is about the file, not about the option."""
    assert metadata_of(convert(save(weights((8, 8))), salvage=True).target) == {"format": "pt"}


def test_a_dry_run_plans_and_writes_nothing(save, tmp_path):
    """What would be written is known without writing; what would be refused is refused."""
    source = save(weights((8, 8)))
    plan = convert(source, dry_run=True)
    assert isinstance(plan, ConversionPlan)
    assert [p.name for p in plan.tensors] == ["model.layer.0.weight"]
    assert os.listdir(tmp_path) == ["model.ckpt"]
    source.with_suffix(".safetensors").touch()
    with pytest.raises(WouldOverwrite):
        convert(source, dry_run=True)


def test_what_is_safetensors_already_is_not_converted(tmp_path):
    """Whatever its ending: a copy under another name would only look like work done."""
    save_file(weights((8, 8)), tmp_path / "m.ckpt")
    with pytest.raises(NothingToConvert, match="safetensors already"):
        convert(tmp_path / "m.ckpt", salvage=True)


def test_a_pickle_named_safetensors_does_not_replace_itself(tmp_path):
    """A mislabelled file's default target would be itself: refused with the way out."""
    torch.save(weights((8, 8)), tmp_path / "m.safetensors")
    with pytest.raises(WouldOverwrite, match="the source itself") as caught:
        convert(tmp_path / "m.safetensors", salvage=True, force=True)
    assert caught.value.hint == "name another target, or say --in-place"


def test_files_without_tensors_are_told_as_what_they_are(tmp_path):
    """Missing, empty of tensors, a web page, a folder: each its own error."""
    with pytest.raises(NotFound):
        convert(tmp_path / "none.ckpt")
    torch.save({"step": 1}, tmp_path / "empty.pt")
    with pytest.raises(NothingToConvert, match="no tensor"):
        convert(tmp_path / "empty.pt")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(UnknownContainer, match="an HTML or XML page"):
        convert(tmp_path / "page.ckpt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model_index.json").write_text("{}")
    with pytest.raises(NothingToConvert, match="there are no weights in it"):
        convert(tmp_path / "folder")


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_download_is_refused(save, kept):
    """A file that ends early is not converted in part, not even to salvage it."""
    source = save(weights((640, 32), (320, 64)))
    os.truncate(source, int(source.stat().st_size * kept))
    for salvage in (False, True):
        with pytest.raises(Truncated if save.form == "zip" else (Truncated, Malformed)):
            convert(source, salvage=salvage)
    assert not source.with_suffix(".safetensors").exists()


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.eye(4).to_sparse(), id="sparse"),
        pytest.param(lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), id="quantized"),
        pytest.param(lambda: torch.empty(2, 2, device="meta"), id="without data"),
    ],
)
def test_tensors_of_other_kinds_are_refused_and_not_left_out(tmp_path, make):
    """A file that lacks some of its weights would be worse than none: the tensor is named."""
    torch.save({"fine": torch.ones(2), "w": make()}, tmp_path / "m.pt")
    with pytest.raises((UnsupportedLayout, UnsupportedDtype), match="tensor 'w' is "):
        convert(tmp_path / "m.pt", salvage=True)


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_and_arrays_in_a_plain_pickle(tmp_path, protocol):
    """pickle.dump nests a whole file in each tensor, which torch.load cannot read; arrays are bytes of the pickle."""
    tensors = weights((8, 8), (300, 200))
    array = np.arange(60_000, dtype=">f4").reshape(300, 200, order="F")
    with (tmp_path / "m.pkl").open("wb") as file:
        pickle.dump(tensors | {"array": array}, file, protocol=protocol)
    assert_equal(convert(tmp_path / "m.pkl").target, tensors | {"array": torch.from_numpy(array.astype("<f4"))})


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dir/model.ckpt", "dir/model.safetensors"),
        ("vae.vae.pt", "vae.vae.safetensors"),
        ("model-v1.5", "model-v1.5.safetensors"),
        ("pytorch_model.BIN", "pytorch_model.safetensors"),
    ],
)
def test_the_target_lies_beside_the_source_by_default(source, target):
    """A model file's ending is replaced; another dot belongs to the name."""
    assert default_target(source) == target


def test_a_folder_as_target_takes_the_file_under_its_name(save, tmp_path):
    """As with cp."""
    source = save(weights((8, 8)))
    (tmp_path / "library").mkdir()
    assert convert(source, tmp_path / "library").target == str(tmp_path / "library" / "model.safetensors")
