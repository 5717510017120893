"""Whole files, broken at random."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from random import Random

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 1 << 40)
_MAX = 1 << 20
_SEVEN = b"7z\xbc\xaf\x27\x1c"


def mutated(rng: Random, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """One of *files*, by its name, with one to six things done to it."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        _break(rng, data, files)
        del data[_MAX:]
    if data.startswith(_SEVEN) and len(data) > 32 and rng.random() < 0.8:
        _mend_checksums(data)
    return name, bytes(data)


def _break(rng: Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    """Do one thing to *data*."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice([1, 2, 8, 64, 1024]))
    kind = rng.randrange(10)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = rng.choice(b"\0\x01\x7f\x80\xff\n(.tRcQ") if rng.random() < 0.7 else rng.randrange(256)
    elif kind == 2:
        _write_number(rng, data, at)
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        del data[:at]
    elif kind == 5:
        del data[at:end]
    elif kind == 6:
        data[at:at] = data[at:end] * rng.choice([1, 1, 2, 50])
    elif kind == 7:
        other = files[rng.choice(sorted(files))]
        start = rng.randrange(len(other) + 1)
        data[at : rng.choice([at, end])] = other[start : start + rng.choice([16, 256, _MAX])]
    elif kind == 8:
        data[at:at] = rng.randbytes(rng.randrange(1, 40))
    else:
        _adjust_number(rng, data, at)


def _mend_checksums(data: bytearray) -> None:
    """Make the checksums of a 7z archive's headers right, without which nothing of it is read."""
    offset, size = struct.unpack_from("<QQ", data, 12)
    struct.pack_into("<L", data, 28, zlib.crc32(data[32 + offset : 32 + offset + size]))
    struct.pack_into("<L", data, 8, zlib.crc32(data[12:32]))


def _write_number(rng: Random, data: bytearray, at: int) -> None:
    """Put a number that is a limit of something into *data*."""
    number, width = rng.choice(_NUMBERS), rng.choice([1, 2, 4, 8])
    raw = (number & ((1 << 8 * width) - 1)).to_bytes(width, rng.choice(["little", "big"]))
    data[at : at + width] = raw


def _adjust_number(rng: Random, data: bytearray, at: int) -> None:
    """Add a little to the 32-bit number at *at*, or take it away."""
    if at + 4 <= len(data):
        number = struct.unpack_from("<I", data, at)[0]
        struct.pack_into("<I", data, at, (number + rng.choice([-64, -8, -1, 1, 8, 64])) % (1 << 32))
