"""Random pickle programs, each from a seed of its own, and the files that they come in."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from dataclasses import dataclass, replace
from random import Random

from fuzz.recipes import STORAGES, known, wild
from fuzz.trees import Node, Pairs, pick, size, with_replaced
from fuzz.writer import Writer

PROFILES = ("known", "near", "wild", "chaos")
"""What legitimate files hold, each to be judged SAFE; the same with a node or two replaced; anything; anything with its
opcodes shuffled."""

_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = b"\x80\x02M\xe9\x03."
_SYSTEM = b"\x80\x02}q\0(U\x10protocol_versionM\xe9\x03U\rlittle_endian\x88u."
_OPCODES = [(ord(each.code), each.arg.name if each.arg else "") for each in pickletools.opcodes]


@dataclass(frozen=True, slots=True)
class Case:
    """Programs, opcode by opcode, and how they are put into a file.

    ``wrapping`` is ``bare`` (all programs one after another), ``zip`` or ``legacy`` (only the first); ``encoding`` is
    what the unpicklers take 8-bit strings for, ``buffers`` whether they are given out-of-band buffers, ``buffered``
    whether they read through a buffer.
    """

    seed: str
    profile: str
    programs: tuple[tuple[bytes, ...], ...]
    wrapping: str = "bare"
    storages: tuple[str, ...] = ()
    encoding: str = "ASCII"
    buffers: bool = False
    buffered: bool = False

    @property
    def stream(self) -> bytes:
        """The bytes that an unpickler reads, one ``load()`` after another."""
        data = b"".join(b"".join(chunks) for chunks in self.programs)
        if self.wrapping == "legacy":
            return _MAGIC + _PROTOCOL + _SYSTEM + data + _storage_keys(self.storages)
        return data

    @property
    def loads(self) -> int:
        """How many times an unpickler is asked to load."""
        return 5 if self.wrapping == "legacy" else len(self.programs)

    @property
    def file(self) -> bytes:
        """The bytes of the whole file."""
        if self.wrapping == "legacy":
            raw = (struct.pack("<q", STORAGES[key][1]) + bytes(16) for key in self.storages)
            return self.stream + b"".join(raw)
        if self.wrapping == "zip":
            return _zip(self.stream, self.storages)
        return self.stream


def case_of(seed: str) -> Case:
    """The case that *seed* stands for, always the same."""
    rng = Random(seed)  # noqa: S311 - not for secrets
    profile = rng.choices(PROFILES, (30, 30, 25, 15))[0]
    programs: list[tuple[bytes, ...]] = []
    storages: dict[str, None] = {}
    wrapping = rng.choices(("bare", "zip", "legacy"), (4, 3, 2))[0]
    count = rng.choice([2, 3]) if wrapping == "bare" and profile != "known" and rng.random() < 0.1 else 1
    for _ in range(count):
        writer = Writer(rng, {"known": 0.0, "near": 0.01, "wild": 0.04, "chaos": 0.06}[profile])
        writer.write(_tree(rng, profile))
        writer.chunks.append(b".")
        chunks = _headed(rng, writer.chunks, 0.0 if profile == "known" else writer.liberty)
        if profile == "chaos":
            chunks = _shuffled(rng, chunks)
        programs.append(tuple(chunks))
        storages |= writer.storages
    if profile == "known" and wrapping == "bare" and storages:
        wrapping = "zip"
    return Case(
        seed,
        profile,
        tuple(programs),
        wrapping,
        tuple(sorted(storages)),
        rng.choices(("ASCII", "latin1", "utf-8", "bytes"), (6, 1, 1, 1))[0],
        rng.random() < 0.5,
        rng.random() < 0.3,
    )


def with_chunks(case: Case, chunks: tuple[bytes, ...]) -> Case:
    """*case* with the opcodes of its first program replaced."""
    return replace(case, programs=(chunks, *case.programs[1:]))


def _tree(rng: Random, profile: str) -> Node:
    if profile in ("wild", "chaos"):
        return wild(rng)
    entries = tuple((rng.choice(["a", "b", "c", "model", "state_dict"]), known(rng)) for _ in range(rng.randrange(4)))
    tree: Node = Pairs(entries) if rng.random() < 0.7 else known(rng)
    if profile == "near":
        for _ in range(rng.choice([1, 1, 2])):
            new = wild(rng, 2) if rng.random() < 0.6 else pick(rng, known(rng))
            tree = with_replaced(tree, rng.randrange(size(tree)), new)
    return tree


def _headed(rng: Random, chunks: list[bytes], liberty: float) -> list[bytes]:
    """*chunks* with PROTO and frames, or without; with some *liberty*, frames that lie."""
    head = [] if rng.random() < 0.2 else [b"\x80" + bytes([rng.randrange(6)])]
    if rng.random() < 0.7:
        return head + chunks
    framed: list[bytes] = []
    at = 0
    while at < len(chunks):
        run = chunks[at : at + rng.randrange(1, 60)]
        length = sum(map(len, run))
        if rng.random() < liberty:
            length = max(0, length + rng.choice([-3, -1, 1, 2, 9]))
        if at + len(run) >= len(chunks) or rng.random() < 0.7:
            framed.append(b"\x95" + struct.pack("<Q", length))
        framed += run
        at += len(run)
    return head + framed


def _shuffled(rng: Random, chunks: list[bytes]) -> list[bytes]:
    """*chunks* with a few of them lost, doubled, moved, broken, or followed by any opcode."""
    chunks = list(chunks)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(chunks))
        kind = rng.randrange(6)
        if kind == 0 and len(chunks) > 1:
            del chunks[at]
        elif kind == 1:
            chunks.insert(at, rng.choice(chunks))
        elif kind == 2:
            other = rng.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif kind == 3 and chunks[at]:
            broken = bytearray(chunks[at])
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            chunks[at] = bytes(broken)
        elif kind == 4:
            chunks[at] = chunks[at][: rng.randrange(len(chunks[at]) + 1)]
        else:
            chunks.insert(at, any_opcode(rng))
    return chunks


def any_opcode(rng: Random) -> bytes:
    """One of the 68 opcodes, with an argument."""
    code, kind = rng.choice(_OPCODES)
    text = rng.choice([b"0", b"1", b"-1", b"5L", b"1.5", b"'os'", b"os", b"01", b"", b"nan", b"0x10"])
    raw = rng.choice([b"", b"os", b"\0\xff", b"system"])
    arguments = {
        "": b"",
        "uint1": rng.randbytes(1),
        "uint2": bytes([rng.choice([1, 44]), rng.choice([0, 1])]),
        "int4": struct.pack("<i", rng.choice([0, 1, 300, -1, 70_000])),
        "uint4": struct.pack("<I", rng.choice([0, 1, 300, 1 << 31])),
        "uint8": struct.pack("<Q", rng.choice([0, 3, 30, 1 << 40])),
        "float8": struct.pack(">d", 0.5),
        "stringnl_noescape_pair": b"%s\n%s\n" % rng.choice([(b"os", b"system"), (b"builtins", b"set"), (b"", b"")]),
    }
    if kind in arguments:
        return bytes([code]) + arguments[kind]
    if kind.endswith("1"):
        return bytes([code, len(raw)]) + raw
    if kind.endswith("4"):
        return bytes([code]) + struct.pack("<i", len(raw)) + raw
    if kind.endswith("8"):
        return bytes([code]) + struct.pack("<Q", len(raw)) + raw
    return bytes([code]) + text + b"\n"


def _storage_keys(keys: tuple[str, ...]) -> bytes:
    return b"\x80\x02](" + b"".join(b"X\x01\0\0\0" + key.encode() for key in keys) + b"e."


def _zip(program: bytes, keys: tuple[str, ...]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), program)
        for key in keys:
            archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), bytes(16))
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")
    return out.getvalue()
