"""The files are those that torch writes: byte for byte where it can be asked, and readable by it in any case."""

from __future__ import annotations

import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modelhub.samples import torch_files
from modelhub.samples.layouts import checkpoint
from modelhub.samples.pickling import Call, Import, parameter
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import Storage, Weight, random_weight, random_weights, weight
from modelhub.tensors import DType
from tests.samples.test_weights import tensor_of

TYPED = [
    *(DType.F16, DType.BF16, DType.F32, DType.F64, DType.BOOL),
    *(DType.U8, DType.I8, DType.I16, DType.I32, DType.I64),
]
UNTYPED = [DType.F8_E4M3, DType.F8_E5M2, DType.U16, DType.U32, DType.U64]
SHAPES: list[tuple[int, ...]] = [(), (0,), (5,), (3, 5), (1, 4, 3, 3), (2, 40_000)]


def weights_of(dtypes: list[DType]) -> dict[str, Weight]:
    """A weight of each type and shape."""
    return {
        f"{dtype.label}.{i}": random_weight(f"{dtype.label}.{i}", dtype, shape)
        for dtype in dtypes
        for i, shape in enumerate(SHAPES)
    }


def assert_same(loaded: dict[str, torch.Tensor], weights: dict[str, Weight]) -> None:
    """*loaded* are the tensors of *weights*, in order, type, shape and bytes."""
    assert list(loaded) == list(weights)
    for name, made in weights.items():
        expected = tensor_of(made) if made.storage.numel else loaded[name].new_empty(made.shape)
        assert loaded[name].dtype is expected.dtype
        assert loaded[name].shape == expected.shape
        assert torch.equal(loaded[name].reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
def test_torch_reads_every_tensor(tmp_path: Path, write: Any) -> None:
    """``torch.load(weights_only=True)`` gives the same types, shapes and bytes, and the values around them."""
    weights = weights_of(TYPED)
    path = tmp_path / "all.pt"
    write(path, {"state_dict": OrderedDict(weights), "global_step": 470_000, "name": "ünï", "list": [1, (2.5, None)]})
    loaded = torch.load(path, weights_only=True)
    assert_same(loaded.pop("state_dict"), weights)
    assert loaded == {"global_step": 470_000, "name": "ünï", "list": [1, (2.5, None)]}


def test_torch_reads_types_without_a_storage_class(tmp_path: Path) -> None:
    """Newer element types are stored untyped, as torch does."""
    weights = weights_of(UNTYPED)
    write_torch_zip(tmp_path / "new.pt", weights)
    assert_same(torch.load(tmp_path / "new.pt", weights_only=True), weights)
    with pytest.raises(ValueError, match="F8_E4M3"):
        write_torch_legacy(tmp_path / "old.pt", weights)


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="the layout that is copied is that of torch 2.13")
def test_a_zip_is_byte_for_byte_what_torch_writes(tmp_path: Path) -> None:
    """Given the same tensors, torch's own file differs in nothing but the number that it gives each file."""
    weights = weights_of(TYPED + UNTYPED)
    write_torch_zip(tmp_path / "ours.ckpt", {"state_dict": OrderedDict(weights), "epoch": 3}, root="archive")
    tensors = OrderedDict((name, tensor_of(w) if w.storage.numel else empty(w)) for name, w in weights.items())
    (tmp_path / "theirs").mkdir()
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "theirs" / "archive.ckpt")
    assert without_id(tmp_path / "ours.ckpt") == without_id(tmp_path / "theirs" / "archive.ckpt")


def empty(made: Weight) -> torch.Tensor:
    return torch.empty(made.shape, dtype=getattr(torch, made.dtype.torch_name))


def without_id(path: Path) -> bytes:
    """The file's bytes with its serialization id, and that member's two checksums, blanked."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/.data/serialization_id")
        number = archive.read(info)
    assert len(number) == 40
    assert number.isdigit()
    return data.replace(number, b"0" * 40).replace(info.CRC.to_bytes(4, "little"), b"\0" * 4)


def test_members_are_intact_and_aligned(tmp_path: Path) -> None:
    """Every member has its true CRC-32 and starts at a multiple of 64 bytes, in torch's order."""
    path = tmp_path / "model.ckpt"
    write_torch_zip(path, random_weights(checkpoint("sd-1", width=1 / 64)))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        for info in archive.infolist():
            lengths = [int.from_bytes(data[info.header_offset + i :][:2], "little") for i in (26, 28)]
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0
    tensors = [f"model/data/{i}" for i in range(1143)]
    assert names == [
        *("model/data.pkl", "model/.format_version", "model/.storage_alignment", "model/byteorder"),
        *tensors,
        *("model/version", "model/.data/serialization_id"),
    ]


def test_more_than_four_gigabytes_are_addressed_by_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage of 4 GiB, and all that follows it, is found again by zipfile and by torch's mapped load."""
    block = bytes(1 << 24)
    blocks = 257
    monkeypatch.setattr(torch_files, "open", opened_sparsely(block), raising=False)
    monkeypatch.setattr(torch_files, "zlib", ChecksumOfZeros(block))
    large = Weight(Storage(DType.U8, blocks * len(block), lambda: (block for _ in range(blocks))), (blocks, len(block)))
    after = random_weight("after", DType.F16, (1000,))
    path = tmp_path / "large.ckpt"
    write_torch_zip(path, {"large": large, "after": after})
    assert path.stat().st_size > 1 << 32
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("large/data/0").file_size == blocks << 24
        assert archive.getinfo("large/data/1").header_offset > 1 << 32
        assert len(archive.read("large/data/1")) == 2000
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert loaded["large"].shape == (blocks, 1 << 24)
    assert loaded["large"][-1, -1] == 0
    assert torch.equal(loaded["after"], tensor_of(after))


def opened_sparsely(hole: bytes) -> Any:
    """``open`` for writing files in which the bytes object *hole* takes no room on the disk."""

    class Sparse:
        def __init__(self, path: Path, mode: str) -> None:
            self._file = path.open(mode)

        def write(self, data: bytes) -> int:
            if data is hole:
                self._file.seek(len(data), 1)
                return len(data)
            return self._file.write(data)

        def __enter__(self) -> Sparse:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    return Sparse


class ChecksumOfZeros:
    """zlib, but quick about the bytes object *hole*: its checksum is left out."""

    def __init__(self, hole: bytes) -> None:
        self._hole = hole

    def crc32(self, data: bytes, crc: int = 0) -> int:
        return crc if data is self._hole else zlib.crc32(data, crc)


@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
def test_weights_may_share_and_stride(tmp_path: Path, write: Any) -> None:
    """Several weights over one storage stay one storage, at their offsets and strides."""
    values = weight(DType.I16, (6,), b"".join(i.to_bytes(2, "little") for i in range(6)))
    storage = values.storage
    value = {
        "whole": values,
        "tail": Weight(storage, (2,), offset=4),
        "turned": Weight(storage, (3, 2), strides=(1, 3)),
        "parameter": parameter(random_weight("p", DType.F32, (2, 2))),
    }
    write(tmp_path / "shared.pt", value)
    loaded = torch.load(tmp_path / "shared.pt", weights_only=True)
    assert loaded["whole"].tolist() == [0, 1, 2, 3, 4, 5]
    assert loaded["tail"].tolist() == [4, 5]
    assert loaded["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["tail"].untyped_storage().data_ptr() == loaded["whole"].untyped_storage().data_ptr()
    assert isinstance(loaded["parameter"], torch.nn.Parameter)


@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
@pytest.mark.parametrize("data", [b"", b"\0" * 5, b"\0" * 7])
def test_chunks_of_the_wrong_length_are_refused(tmp_path: Path, write: Any, data: bytes) -> None:
    """A weight whose data is not as long as its storage never makes a file that looks whole."""
    broken = Weight(Storage(DType.F16, 3, lambda: (data,)), (3,))
    with pytest.raises(ValueError, match="bytes of data"):
        write(tmp_path / "broken.pt", {"w": broken})


def test_a_call_may_come_before_the_tensors(tmp_path: Path) -> None:
    """A whole state dict can be preceded by a call whose result is dropped."""
    weights = weights_of([DType.F16])
    write_torch_zip(tmp_path / "x.pt", weights, before=[Call(Import("collections", "OrderedDict"))])
    assert_same(torch.load(tmp_path / "x.pt", weights_only=False), weights)


def test_safetensors_reads_every_tensor(tmp_path: Path) -> None:
    """The reference library reads types, shapes, bytes and metadata of our safetensors files."""
    weights = weights_of(TYPED + UNTYPED)
    write_safetensors(tmp_path / "x.safetensors", weights, {"format": "pt"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert_same({name: loaded[name] for name in weights}, weights)
    shared = random_weight("w", DType.F16, (2,))
    with pytest.raises(ValueError, match="share"):
        write_safetensors(tmp_path / "y.safetensors", {"a": shared, "b": shared})
