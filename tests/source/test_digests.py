"""Digests, against what their definitions say."""

from __future__ import annotations

import hashlib
import sys
import types
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.source import BytesSource
from modelhub.source import digests as room
from modelhub.source.digests import Cast, Run, digests_of, read_digests


def source(data: bytes) -> BytesSource:
    return BytesSource("x", data)


def safetensors(data: bytes, header: bytes = b"{}      ") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_definitions() -> None:
    """Each digest is of the bytes that its definition names."""
    data = safetensors(bytes(range(256)) * 8192)  # 2 MiB and a header
    found = digests_of(source(data))
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["crc32"] == f"{zlib.crc32(data):08x}"
    assert found["autov1"] == hashlib.sha256(data[0x100000:0x110000]).hexdigest()
    assert found["autov3"] == hashlib.sha256(data[16:]).hexdigest()
    assert "tensors" not in found


def test_autov3_of_a_pickle() -> None:
    """A first number of 16 MiB or more is no header's length: what follows those eight bytes is hashed."""
    for first in ((1 << 24).to_bytes(8, "little"), b"\x80\x02}q\x00X\x05\x00", b"PK\x03\x04\x00\x00\x08\x08"):
        data = first + b"abc" * 100
        assert digests_of(source(data))["autov3"] == hashlib.sha256(data[8:]).hexdigest()
    data = ((1 << 24) - 1).to_bytes(8, "little") + b"abc"
    assert digests_of(source(data))["autov3"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("size", [0, 0x100000, 0x10FFFF])
def test_short_files_have_no_autov1(size: int) -> None:
    """A file that does not reach the window's end has no AutoV1, instead of one that all such files share."""
    assert "autov1" not in digests_of(source(bytes(size)))


def test_blake3_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAKE3 is among the answers exactly where its package can be had."""
    monkeypatch.setitem(sys.modules, "blake3", None)
    assert "blake3" not in digests_of(source(b"abc"))
    stand_in = types.ModuleType("blake3")
    stand_in.blake3 = hashlib.sha1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "blake3", stand_in)
    assert digests_of(source(b"abc"))["blake3"] == hashlib.sha1(b"abc").hexdigest()


@settings(max_examples=60)
@given(data=st.binary(max_size=300), chunk=st.integers(1, 64), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_any_chunks(data: bytes, chunk: int, cuts: list[int]) -> None:
    """However the file falls into chunks, and however tensors lie over one another, the answers are the same."""
    inside = [cut % (len(data) + 1) for cut in cuts]
    runs = [Run(min(a, b), abs(a - b), f"t{number}") for number, (a, b) in enumerate(pairwise(inside))]
    before = room.CHUNK
    room.CHUNK = chunk
    try:
        found = digests_of(source(data), runs)
    finally:
        room.CHUNK = before
    lines = sorted((f"t{n.label[1:]}", data[n.start : n.start + n.nbytes]) for n in runs)
    text = "".join(f"{hashlib.blake2b(part, digest_size=32).hexdigest()} {label}\n" for label, part in lines)
    assert found["tensors"] == hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    assert found["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_file_that_ends_before_its_tensors() -> None:
    """A file that is cut off has no digest of its tensors."""
    assert "tensors" not in digests_of(source(b"abc"), [Run(1, 5, "t")])
    assert "tensors" not in digests_of(source(b"abc"), [Run(7, 5, "t")])


@settings(max_examples=60)
@given(data=st.binary(min_size=8, max_size=90), chunk=st.integers(1, 40), cut=st.integers(0, 8))
def test_components(data: bytes, chunk: int, cut: int) -> None:
    """A component has the fingerprint of a file that it is alone in, and of its cast that of the narrower file;
    elements that lie across chunks are cast whole."""
    size = len(data) // 4 * 4
    cut = min(cut * 4, size)

    def halved(part: memoryview) -> memoryview:
        assert len(part) % 4 == 0
        return memoryview(b"".join(bytes(part[i : i + 2]) for i in range(0, len(part), 4)))

    cast = Cast(halved, 4, "half a")
    runs = [Run(0, cut, "x.a", "one", "a", cast), Run(cut, size - cut, "y.b", "two", "b")]
    before = room.CHUNK
    room.CHUNK = chunk
    try:
        found = {(part.name, part.is_cast): part for part in read_digests(source(data), runs).parts}
    finally:
        room.CHUNK = before
    assert found.keys() == {("one", False), ("one", True), ("two", False)}
    alone = digests_of(source(data[:cut]), [Run(0, cut, "a")])["tensors"]
    narrow = bytes(halved(memoryview(data[:cut])))
    as_half = digests_of(source(narrow), [Run(0, len(narrow), "half a")])["tensors"]
    assert (found["one", False].fingerprint, found["one", True].fingerprint) == (alone, as_half)
    assert found["two", False].nbytes == size - cut


def test_a_cast_that_cannot_be_made() -> None:
    """A component with a value that has no counterpart has no cast, and all else is as it was."""

    def refuse(part: memoryview) -> memoryview:
        raise ValueError

    runs = [Run(0, 4, "a", "one", "a", Cast(refuse, 4, "half a")), Run(4, 4, "b", "one", "b")]
    (part,) = read_digests(source(b"12345678"), runs).parts
    assert (part.name, part.is_cast, part.nbytes) == ("one", False, 8)
    assert read_digests(source(b"123"), runs).parts == ()
