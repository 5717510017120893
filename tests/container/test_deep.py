"""The deep check: damage anywhere in a file is found, and every byte is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
import zlib

import pytest
import safetensors.torch
import torch

from modelhub.container import open_container, open_path
from modelhub.container.deep import deep_check
from modelhub.source import BytesSource
from tests.container.build import Part, build_zip, opened, saved, torch_parts

SD = {"a": torch.randn(400), "b": torch.zeros(7, dtype=torch.float16)}
WHOLE = saved(SD)


class Counting(BytesSource):
    """Counts the bytes that are read, each once."""

    def __init__(self, data: bytes) -> None:
        super().__init__("counted", data)
        self.seen = bytearray(len(data))

    def read_at(self, offset: int, length: int) -> bytes:
        data = super().read_at(offset, length)
        self.seen[offset : offset + len(data)] = b"\1" * len(data)
        return data


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        saved(SD, legacy=True),
        safetensors.torch.save(SD),
        gzip.compress(WHOLE),
        bz2.compress(WHOLE),
        lzma.compress(WHOLE) + lzma.compress(b"more"),
        zlib.compress(WHOLE),
        build_zip([Part("a", b"x" * 5000, method=8), Part("b", b"y" * 3000)]),
    ],
)
def test_sound_files_pass(data):
    """A sound file has nothing wrong with it, and each of its tensors' bytes was read; progress adds up to its size."""
    source = Counting(data)
    container = open_container(source)
    source.seen = bytearray(len(data))
    told: list[int] = []
    assert deep_check(container, told.append) == ()
    assert sum(told) == len(data)
    for tensor in (container.state_dict or {}).values():
        assert all(source.seen[tensor.start : tensor.start + tensor.nbytes])


def test_damage_in_tensor_data_is_found():
    """A flipped bit in the weights, which opening a checkpoint does not look at, is found by its checksum."""
    container = opened(WHOLE)
    at = container.state_dict["a"].start + 3
    damaged = opened(WHOLE[:at] + bytes((WHOLE[at] ^ 1,)) + WHOLE[at + 1 :])
    assert damaged.anomalies == ()
    found = deep_check(damaged)
    assert [(odd.rule, odd.member) for odd in found] == [("zip.crc", "archive/data/0")]


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (Part("t/data/0", bytes(64), method=8, crc=5), "zip.crc"),
        (Part("t/data/0", b"some bytes", crc=0), "zip.no-crc"),
        (Part("t/data/0", bytes(64), method=8, size=63), "zip.size-mismatch"),
        (Part("t/data/0", bytes(64), method=8, size=65), "zip.size-mismatch"),
        (Part("t/data/0", bytes(64), method=8, packed=b"\xff" * 20), "zip.deflate"),
    ],
)
def test_every_checksum_and_size_is_checked(part, rule):
    """A member whose bytes are not what the archive announces is told."""
    container = opened(build_zip([*torch_parts(b"\x80\x02}."), part]))
    assert rule in {odd.rule for odd in deep_check(container)}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_damage_in_compressed_files_is_found(pack):
    """A compressed file that is cut off or damaged does not pass."""
    packed = pack(bytes(range(256)) * 100)
    for bad in (packed[:-2], packed[:-1] + b"\x55", packed[:20] + b"\0\0\0\0" + packed[24:]):
        container = opened(bad)
        if container.kind != "unknown":
            assert {odd.rule for odd in deep_check(container)} == {"compressed.broken"}


def test_bombs_take_no_memory():
    """What unpacks to very much is checked in flat memory."""
    container = opened(build_zip([*torch_parts(b"\x80\x02}."), Part("t/data/0", bytes(100 << 20), method=8)]))
    tracemalloc.start()
    assert deep_check(container) == ()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_files_of_a_folder(tmp_path):
    """Every file of a folder is checked, and told by its path."""
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    at = opened(WHOLE).state_dict["a"].start
    (tmp_path / "unet" / "model.bin").write_bytes(WHOLE[:at] + b"\xff\0\xff\0" + WHOLE[at + 4 :])
    with open_path(tmp_path) as container:
        assert [odd.member for odd in deep_check(container)] == ["unet/model.bin!archive/data/0"]
