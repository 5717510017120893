"""What kind of file some bytes are, by the bytes alone.

:func:`sniff` looks at the first :data:`HEAD` bytes; telling the kinds of zip and of pickle apart needs the readers and
is done in :mod:`modelhub.container.open`. Names and extensions play no part here: :func:`expected_kinds` is only for
telling people that a name promises something else.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "safetensors": "a safetensors file",
    "torch-zip": "a PyTorch checkpoint (zip, torch 1.6 and later)",
    "torch-legacy": "a PyTorch checkpoint (pickles and raw storages, torch 0.1.10 to 1.5)",
    "torch-tar": "a PyTorch checkpoint (tar, before torch 0.1.10)",
    "torchscript": "a TorchScript program (zip)",
    "pickle": "a Python pickle",
    "diffusers-folder": "a diffusers folder",
    "model-folder": "a folder of one model",
    "gguf": "a GGUF model",
    "onnx": "an ONNX model",
    "hdf5": "an HDF5 file",
    "numpy": "a NumPy array file",
    "zip": "a zip archive",
    "tar": "a tar archive",
    "7z": "a 7z archive",
    "rar": "a RAR archive",
    "gzip": "a gzip-compressed file",
    "bz2": "a bzip2-compressed file",
    "xz": "an xz-compressed file",
    "lzma": "an LZMA-compressed file",
    "zlib": "a zlib-compressed file",
    "lz4": "an LZ4-compressed file",
    "zstd": "a Zstandard-compressed file",
    "html": "an HTML or XML page",
    "git-lfs-pointer": "a Git LFS pointer",
    "json": "a JSON text",
    "text": "a text",
    "image": "an image",
    "empty": "an empty file",
    "unknown": "a file of no known kind",
}
"""Every kind of file that has a name here, and what it is called in a sentence."""

COMPRESSED = frozenset({"gzip", "bz2", "xz", "lzma", "zlib", "lz4", "zstd"})
"""The kinds of file that are one other file, compressed."""

HEAD = 4096
"""Bytes from the start of a file that :func:`sniff` wants to see."""

LEGACY_MAGICS = (
    b"L119547037146038801333356L\n.",
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x80\x03\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x80\x05\x95\x0d\0\0\0\0\0\0\0\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
)
"""0x1950a86a20f9469cfc6c as ``pickle.dump`` writes it in protocols 0 and 1, 2, 3, 4, 5: a legacy file's first bytes."""

PICKLE_FIRST = frozenset(b"(])}NIJKLMFGSTUVXBCcP\x80\x82\x83\x84\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96\x97")
"""First bytes of a pickle that does anything: opcodes that need nothing on the stack."""

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "gguf"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "numpy"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x5d\0", "lzma"),
    (b"ZF0x", "zlib"),  # as joblib wrote it before 0.10
    (b"version https://git-lfs.github.com/spec/", "git-lfs-pointer"),
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF87a", "image"),
    (b"GIF89a", "image"),
)

_TORCH = frozenset({"torch-zip", "torch-legacy", "torch-tar", "torchscript", "pickle"})
_EXPECTED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys((".safetensors", ".sft"), frozenset({"safetensors"})),
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"), _TORCH),
    ".pt2": frozenset({"zip", "torch-zip", "torchscript"}),
    **dict.fromkeys((".torchscript", ".ptl"), frozenset({"torchscript"})),
    ".gguf": frozenset({"gguf"}),
    ".onnx": frozenset({"onnx"}),
    ".h5": frozenset({"hdf5"}),
    ".keras": frozenset({"zip", "hdf5"}),
    ".npy": frozenset({"numpy"}),
    ".npz": frozenset({"zip"}),
    ".gz": frozenset({"gzip"}),
    ".bz2": frozenset({"bz2"}),
    ".xz": frozenset({"xz"}),
    ".lzma": frozenset({"lzma"}),
    ".zip": frozenset({"zip"}),
    ".tar": frozenset({"tar", "torch-tar"}),
    ".7z": frozenset({"7z"}),
    ".lz4": frozenset({"lz4"}),
    ".zst": frozenset({"zstd"}),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif"), frozenset({"image"})),
    **dict.fromkeys((".txt", ".md", ".csv", ".yaml", ".yml", ".toml"), frozenset({"text"})),
    ".json": frozenset({"json"}),
}


PARTIAL = (".crdownload", ".part", ".partial", ".download", ".aria2", ".opdownload", ".incomplete", ".!ut", ".!qb")
"""Extensions of downloads that have not ended."""


def expected_kinds(name: str) -> frozenset[str] | None:
    """The kinds that a file called *name* promises to be; ``None`` when its extension promises nothing."""
    return _EXPECTED.get(os.path.splitext(name)[1].lower())


def sniff(head: bytes, size: int) -> str:
    """The kind of a file of *size* bytes that begins with *head* (its first :data:`HEAD` bytes, or all).

    Zip archives of any sort answer ``zip``, tar archives ``tar``. Pickles that begin with PROTO answer ``pickle``;
    without it a pickle cannot be told from other bytes by its start and answers ``text`` or ``unknown``.
    """
    if not head:
        return "empty"
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    if is_tar(head):
        return "tar"
    if head.startswith(LEGACY_MAGICS):
        return "torch-legacy"
    if _is_safetensors(head, size):
        return "safetensors"
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:
        return "pickle"
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image"
    if head[:3] == b"BZh" and head[4:10] == b"1AY&SY":
        return "bz2"
    if _is_zlib(head):
        return "zlib"
    if _is_onnx(head):
        return "onnx"
    return _text_kind(head)


def is_tar(head: bytes) -> bool:
    """Whether ``tarfile`` (which torch tries before everything but zip) would take the first block for a header.

    It asks for no magic, only for a checksum: the sum of the block's bytes with the checksum itself as spaces.
    """
    block = head[:512]
    field = block[148:156]
    if len(block) < 512 or not any(block):
        return False
    try:
        if field[0] in (0x80, 0xFF):
            stated = int.from_bytes(field[1:], "big") - (256**7 if field[0] == 0xFF else 0)
        else:
            stated = int(field.split(b"\0", 1)[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        return False
    unsigned = sum(block) - sum(field) + 8 * 0x20
    return stated in (unsigned, unsigned - 256 * sum(b > 127 for b in block[:148] + block[156:]))


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of length and then a JSON object: as long as the file can hold, or at least not text."""
    if len(head) < 9:
        return False
    length = int.from_bytes(head[:8], "little")
    begins = head[8:].lstrip(b" \t\r\n")[:1] == b"{"
    if head[8:9] == b"{":
        return length <= size or not _is_text(head[:8])
    return begins and length <= size


def _is_zlib(head: bytes) -> bool:
    """A zlib header (RFC 1950), and data after it that can be unpacked: the header alone could begin a text."""
    if head[0] & 0x8F != 0x08 or len(head) < 3 or (head[0] << 8 | head[1]) % 31 or head[1] & 0x20:
        return False
    import zlib

    stream = zlib.decompressobj()
    try:
        return bool(stream.decompress(head, 64)) or stream.eof
    except zlib.error:
        return False


def _is_onnx(head: bytes) -> bool:
    """An ONNX ModelProto as exporters write it: ir_version (field 1), producer_name (field 2), and another field."""
    if len(head) < 5 or head[0] != 0x08 or head[1] > 0x40 or head[2] != 0x12 or not 0 < head[3] < 64:
        return False
    name, after = head[4 : 4 + head[3]], head[4 + head[3] : 5 + head[3]]
    return (
        name.isascii() and name.decode("ascii").isprintable() and after in (b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a")
    )


def _text_kind(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and len(head) > 2 and b"\0" in head:
        return "text"
    if not _is_text(head):
        return "unknown"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:32].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<body", b"<script")):
        return "html"
    if start.startswith((b"{", b"[")):
        return "json"
    return "text"


def _is_text(data: bytes) -> bool:
    """Whether *data* (perhaps cut off) is UTF-8 without control characters but white space."""
    if any(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in data) or b"\x7f" in data:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
