"""LZ4 and Zstandard: judged where what unpacks them is installed, and said not to have been where it is not."""

from __future__ import annotations

import gzip
import lzma
import pickle
import sys
import zlib

import lz4.frame
import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from modelhub.container.deep import deep_check
from modelhub.scan import Verdict, scan
from tests.container.build import hostile, imports, opened, rules, saved

SAFE = pickle.dumps({"a": [1, 2, 3]}, 4)
PACK = {
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
MODULES = {"lz4": ("lz4", "lz4.frame"), "zstd": ("backports", "backports.zstd", "compression", "compression.zstd")}
KINDS = pytest.mark.parametrize("kind", PACK)


@KINDS
def test_what_is_inside_is_judged(kind):
    """A file is judged by what it unpacks to, whatever that is, and its stem is the name of what is inside."""
    assert scan(opened(PACK[kind](SAFE))).verdict is Verdict.SAFE
    assert scan(opened(PACK[kind](saved({"a": 1})))).verdict is Verdict.SAFE
    container = opened(PACK[kind](hostile()), "model.pkl.lz4" if kind == "lz4" else "model.pkl.zst")
    assert container.kind == kind
    assert [each.member for each in container.pickles] == ["model.pkl"]
    assert scan(container).verdict is Verdict.UNSAFE


@KINDS
def test_several_frames_are_one_file(kind):
    """Frames that follow each other are read on, as what unpacks them does; other bytes after them are told."""
    halves = PACK[kind](hostile()[:10]) + PACK[kind](hostile()[10:])
    assert imports(opened(halves)) == imports(opened(hostile()))
    assert rules(opened(PACK[kind](SAFE) + b"no compressed data")) == {"compressed.trailing-bytes"}


@KINDS
def test_broken_ones_are_not_safe(kind):
    """Data that ends too early, or is no such data, is told; what was unpacked before is judged."""
    data = PACK[kind](SAFE)
    for broken in (data[:-1], data[:7], data[:4] + bytes(20), data[:-4] + bytes(4)):
        container = opened(broken)
        assert "compressed.broken" in rules(container)
        assert scan(container).verdict is not Verdict.SAFE
        assert "compressed.broken" in {odd.rule for odd in deep_check(container)}
    assert deep_check(opened(data)) == ()


def test_bombs_end_soon():
    """Far more bytes than any model packs so small end the unpacking, also where every byte is to be read."""
    container = opened(zstd.compress(bytes(64 << 20)))
    assert "compressed.bomb" in rules(container)
    assert [odd.rule for odd in deep_check(container)] == ["compressed.bomb"]
    assert scan(container).verdict is Verdict.UNKNOWN


@KINDS
def test_without_its_package_a_file_is_unknown(kind, monkeypatch):
    """Where what unpacks a file is not installed, it is unknown and people are told what to install."""
    for module in MODULES[kind]:
        monkeypatch.setitem(sys.modules, module, None)
    container = opened(PACK[kind](hostile()))
    assert container.kind == kind
    assert rules(container) == {"container.not-examined"}
    assert "[archives]" in container.anomalies[0].message
    assert scan(container).verdict is Verdict.UNKNOWN
    assert deep_check(container) == ()


@pytest.mark.parametrize("flags", [0x80, 0x02, 0x1E], ids=["reserved flag", "wrong header checksum", "all fields"])
def test_gzip_headers_are_read_as_python_reads_them(flags):
    """A header that zlib refuses and Python's gzip passes over does not hide what is inside."""
    data = gzip.compress(hostile())
    fields = (b"\2\0xx" if flags & 4 else b"") + b"a\0" * (flags >> 3 & 1) + b"b\0" * (flags >> 4 & 1)
    odd = data[:3] + bytes([flags]) + data[4:10] + fields + (b"\0\0" if flags & 2 else b"") + data[10:]
    assert gzip.decompress(odd) == hostile()
    container = opened(odd)
    assert "compressed.broken" in rules(container)
    assert scan(container).verdict is Verdict.UNSAFE


@pytest.mark.parametrize("tail", ["", " "])
def test_old_joblib_files_are_unpacked(tail):
    """A file as joblib compressed it before 0.10 is judged by what is inside."""
    head = b"ZF" + (hex(len(hostile())).ljust(19) + tail).encode()
    container = opened(head + zlib.compress(hostile()))
    assert container.kind == "zlib"
    assert scan(container).verdict is Verdict.UNSAFE


def test_any_lzma_file_is_unpacked():
    """What joblib takes for LZMA is unpacked, whatever the dictionary's size in its header."""
    data = bytearray(lzma.compress(hostile(), lzma.FORMAT_ALONE))
    data[2] = 1
    assert lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(bytes(data)) == hostile()
    assert scan(opened(bytes(data))).verdict is Verdict.UNSAFE
