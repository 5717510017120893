"""Storages that do not lie plainly in their file are read as if they did."""

from __future__ import annotations

import random
import tempfile
import zlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub.container import storages as room
from modelhub.container.storages import Storages
from modelhub.errors import LimitExceeded, Malformed
from modelhub.source import BytesSource, Source
from modelhub.tensors import DType, Packing, StorageRef, TensorInfo


def deflated(data: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def packed(data: bytes, form: str, crc: int | None = None, size: int | None = None) -> tuple[BytesSource, TensorInfo]:
    """A file of some bytes, *data* in *form*, and some more; and the tensor of *data*'s bytes."""
    inside = deflated(data) if form == "deflate" else data.decode("latin-1").encode()
    packing = Packing(form, len(inside), crc)
    storage = StorageRef("7", 5, len(data) if size is None else size, packing=packing)
    return BytesSource("file", b"first" + inside + b"last"), TensorInfo("t", DType.U8, (storage.nbytes,), storage)


def located(source: BytesSource, tensor: TensorInfo) -> Source:
    found, placed = Storages(source).locate(tensor)
    assert (placed.start, placed.nbytes, placed.storage.plain) == (0, tensor.nbytes, True)
    return found


def test_plain_storages_are_given_back():
    """What lies plainly in the file is read from the file, where it lies."""
    source = BytesSource("file", bytes(20))
    tensor = TensorInfo("t", DType.U8, (3,), StorageRef("0", 4, 3))
    assert Storages(source).locate(tensor) == (source, tensor)


def test_storages_in_memory():
    """Of a storage whose bytes were kept, these are the source."""
    storage = StorageRef("0", 0, 3, data=b"abc")
    tensor = TensorInfo("t", DType.U8, (2,), storage, 1)
    source, placed = Storages(BytesSource("file", b"")).locate(tensor)
    assert source.read_at(placed.start, placed.nbytes) == b"bc"


@given(
    st.binary(max_size=3000),
    st.sampled_from(["deflate", "text"]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 600)), max_size=20),
    st.sampled_from([16, 16 << 20]),
    st.sampled_from([7, 1 << 16]),
)
def test_any_reads_in_any_order(data, form, reads, whole, chunk):
    """Whatever is read, forward or backward, is what was packed, of large storages as of small ones."""
    with mock.patch.object(room, "_WHOLE", whole), mock.patch.object(room, "_CHUNK", chunk):
        source = located(*packed(data, form, zlib.crc32(data)))
        for offset, length in reads:
            assert source.read_at(offset, length) == data[offset : offset + length]


@pytest.mark.parametrize("form", ["deflate", "text"])
@pytest.mark.parametrize("whole", [16, 16 << 20])
def test_wrong_bytes_are_told(form, whole):
    """A storage with another checksum, of another size, or that cannot be unpacked is an error naming it."""
    data = random.Random(1).randbytes(400)
    with mock.patch.object(room, "_WHOLE", whole):
        for crc, size, message in ((1, None, "checksum"), (None, 399, "more than the 399"), (None, 401, "401 bytes")):
            source = located(*packed(data, form, crc, size))
            for _ in range(2):
                with pytest.raises(Malformed, match=f"file: storage '7' .*{message}"):
                    source.read_at(0, 500)
        file, tensor = packed(data, form)
        broken = BytesSource("file", file.read_at(0, 9) + b"\xff\xff\xff" + file.read_at(12, 1000))
        with pytest.raises(Malformed, match="file: storage '7' "):
            located(broken, tensor).read_at(0, 400)


def test_reading_backward_does_not_unpack_again(monkeypatch):
    """A large storage that is read back and forth is unpacked twice at most, the second time into a file."""
    data = random.Random(2).randbytes(100_000)
    monkeypatch.setattr(room, "_WHOLE", 16)
    opened = mock.Mock(side_effect=tempfile.TemporaryFile)
    monkeypatch.setattr(tempfile, "TemporaryFile", opened)
    source = located(*packed(data, "deflate"))
    for offset in range(90_000, 0, -1000):
        assert source.read_at(offset, 10) == data[offset : offset + 10]
    assert opened.call_count == 1


def test_unpacking_over_and_over_is_limited(monkeypatch):
    """Two storages that are read in turns, each from its beginning, end in an error and not in hours."""
    monkeypatch.setattr(room, "_MOST_WORK", (100_000, 2))
    monkeypatch.setattr(room, "_WHOLE", 16)
    source, tensor = packed(bytes(10_000), "deflate")
    other = TensorInfo("u", DType.U8, (10_000,), StorageRef("8", 5, 10_000, packing=tensor.storage.packing))
    both = Storages(source)
    with pytest.raises(LimitExceeded, match=r"file: storage '.' would be unpacked again and again"):
        for _ in range(10):
            for each in (tensor, other):
                both.locate(each)[0].read_at(0, 10_000)
