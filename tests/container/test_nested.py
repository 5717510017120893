"""Files in files: bytes handed to torch, compressed files, archives in archives; nothing in them stays unseen."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import time
import zlib

import pytest
import torch

from modelhub.container import open_container
from modelhub.container.nesting import MAX_CALLS, MAX_INNER
from modelhub.container.nesting import Part as PartOf
from modelhub.source import BytesSource
from tests.container.build import Part, build_zip, hostile, imports, opened, rules, saved, torch_parts

SD = {"a": torch.randn(4, 3), "b": torch.zeros(2, dtype=torch.float16)}
LOADS = b"ctorch.storage\n_load_from_bytes\n"


def literal(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def handed(data: bytes) -> bytes:
    """A pickle that hands *data* to torch."""
    return b"\x80\x03" + LOADS + literal(data) + b"\x85R."


def handed_as_text(data: bytes) -> bytes:
    """The same in protocol 2, which has no bytes."""
    text = data.decode("latin-1").encode()
    return (
        b"\x80\x02"
        + LOADS
        + b"c_codecs\nencode\nX"
        + struct.pack("<I", len(text))
        + text
        + b"X\6\0\0\0latin1\x86R\x85R."
    )


EVIL = imports(opened(hostile()))


@pytest.mark.parametrize("hand", [handed, handed_as_text])
@pytest.mark.parametrize("padding", [0, 100_000], ids=["short", "long"])
@pytest.mark.parametrize("inner", [hostile(), build_zip(torch_parts(hostile()))], ids=["pickle", "zip"])
def test_bytes_handed_to_torch_are_opened(hand, padding, inner):
    """What torch would load from bytes in a pickle is traced, however the bytes are written and however long."""
    program = hand(
        inner + bytes(padding)
        if inner[:2] != b"PK"
        else build_zip([*torch_parts(hostile()), Part("x", bytes(padding))])
    )
    for data, prefix in ((program, ""), (build_zip(torch_parts(program)), "archive/data.pkl!")):
        container = opened(data)
        assert imports(container) >= EVIL
        nested = [each for each in container.pickles if each.role == "nested"]
        call = next(c for c in container.pickles[0].trace.calls if c.callee.name == "_load_from_bytes")
        at = call.offset - container.pickles[0].origin
        assert nested and nested[0].member.startswith(f"{prefix}bytes@{at}")


def test_bytes_in_a_deflated_member_are_opened():
    """Nor does it help to compress the member around them."""
    parts = [Part("a/data.pkl", handed(hostile() + bytes(70_000)), method=8), Part("a/version", b"3\n")]
    assert imports(opened(build_zip(parts))) >= EVIL


def test_bytes_in_a_legacy_file_are_opened():
    """Each of the five pickles of a legacy checkpoint may hand bytes to torch."""
    data = saved({"a": 1}, legacy=True)
    at = data.index(b"}q\x00X\x01\0\0\0aq\x01K\x01s.")
    assert imports(opened(data[: at - 2] + handed(hostile()) + data[at:])) >= EVIL


def test_pickled_tensors_are_understood():
    """A state dict that was pickled without torch.save holds one sound legacy checkpoint for each storage."""
    for protocol in range(2, 6):
        container = opened(pickle.dumps(SD, protocol))
        assert container.anomalies == () and container.skipped == ()
        roles = [each.role for each in container.pickles]
        assert [role for role in roles if role in ("object", "nested")] == ["object", "nested", "nested"]
        assert len(roles) == 1 + 5 * len(SD)
        assert all(each.trace.complete for each in container.pickles)


def test_matroshkas_end():
    """Bytes in bytes are followed a few times, and then said not to have been."""
    data = hostile()
    for depth in range(1, MAX_CALLS + 2):
        data = handed(data)
        container = opened(data)
        assert (imports(container) >= EVIL) == (depth <= MAX_CALLS)
        assert ("pickle.nested-limit" in rules(container)) == (depth > MAX_CALLS)
        assert bool(container.skipped) == (depth > MAX_CALLS)


@pytest.mark.parametrize(
    "argument",
    [
        b"cbuiltins\nbytes\n(tR",
        b"N",
        literal(b"a") + b"K\0",
        b"c_codecs\nencode\n(X\2\0\0\0abX\5\0\0\0rot13tR",
        "X\u0141".encode().replace(b"X", b"c_codecs\nencode\nX\2\0\0\0") + b"X\6\0\0\0latin1\x86R",
    ],
)
def test_bytes_that_are_not_written_out_are_not_passed_over(argument):
    """Bytes that are computed cannot be followed, and that is said."""
    container = opened(b"\x80\x03" + LOADS + b"(" + argument + b"tR.")
    assert "pickle.nested-limit" in rules(container)
    assert container.skipped


def test_many_nested_files_end_soon():
    """Thousands of files in bytes, or one over and over, do not take long: what they may cost together is bounded."""
    once = literal(handed(hostile()))
    again = b"\x80\x03" + LOADS + b"q\0" + once + b"\x85q\1R0" + b"h\0h\1R0" * 20_000 + b"N."
    assert len(opened(again).pickles) == 3
    large = b"h\0" + literal(b"N" * 60_000) + b"\x85R0"
    begun = time.process_time()
    container = opened(b"\x80\x03" + LOADS + b"q\0" + large * 1000 + b"N.")
    assert time.process_time() - begun < 10
    assert "pickle.nested-limit" in rules(container) and container.skipped


PACKERS = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zlib": zlib.compress,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_files_are_opened(kind):
    """A compressed checkpoint is judged as the checkpoint it is: nothing odd in a sound one, all of a bad one."""
    pack = PACKERS[kind]
    for sound in (saved(SD), saved(SD, legacy=True), pickle.dumps(["a"], 0)):
        container = opened(pack(sound), "model")
        assert (container.kind, container.anomalies, container.skipped) == (kind, (), ())
        assert container.pickles
    for bad in (hostile(0), hostile(4), build_zip(torch_parts(hostile())), pack(hostile())):
        container = opened(pack(bad), "model.ckpt")
        assert container.kind == kind
        assert imports(container) >= EVIL
    assert opened(pack(saved(SD)), "m.ckpt.gz").pickles[0].member == "m.ckpt!archive/data.pkl"


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged_compressed_files(kind):
    """A compressed file that is cut off or followed by something says so, and what it held is seen."""
    whole = PACKERS[kind](hostile() + bytes(range(256)) * 40)
    cut = opened(whole[: len(whole) - 1])
    assert "compressed.broken" in rules(cut) and cut.skipped
    if kind not in ("lzma", "bz2"):
        assert imports(cut) >= EVIL
    assert rules(opened(whole + b"junk junk junk junk")) >= {"compressed.trailing-bytes"}


def test_compressed_streams_in_a_row():
    """Python unpacks compressed streams in a row as one file."""
    data = hostile()
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        assert imports(opened(pack(data[:9]) + pack(data[9:]))) >= EVIL


def test_bombs_are_not_unpacked():
    """What unpacks to very much is given up, soon and within bounds, and its beginning is looked at all the same."""
    bomb = gzip.compress(hostile() + bytes(MAX_INNER + (1 << 20)))
    begun = time.process_time()
    for data in (bomb, bz2.compress(hostile() + bytes(MAX_INNER))):
        container = opened(data)
        assert rules(container) & {"compressed.bomb", "container.nested-limit"}
        assert container.skipped
    assert imports(opened(bomb)) >= EVIL
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    "data",
    [
        build_zip([Part("readme", b"hello"), Part("x.png", hostile())]),
        build_zip([Part("x", hostile(0))]),
        build_zip([Part("x.bin", build_zip(torch_parts(hostile())))]),
        build_zip([Part("x.bin", build_zip(torch_parts(hostile())), method=8)]),
        build_zip([Part("a.zip", build_zip([Part("b.zip", build_zip([Part("c", hostile())]))]))]),
        build_zip([Part("x.gz", gzip.compress(hostile()))]),
        build_zip([*torch_parts(pickle.dumps({}, 2)), Part("archive/data/7", hostile())]),
        build_zip([*torch_parts(pickle.dumps({}, 2)), Part("archive/x.txt", hostile(0))]),
        build_zip([*torch_parts(pickle.dumps({}, 2)), Part("archive/x.zip", build_zip(torch_parts(hostile())))]),
        build_zip([Part("x", hostile() + bytes(MAX_INNER), method=8)]),
    ],
)
def test_pickles_in_archives_are_seen(data):
    """A pickle in an archive is seen by its content: under any name, compressed, or in a further archive."""
    assert imports(opened(data)) >= EVIL


def test_pickles_in_tars_are_seen():
    """Nor does a tar hide what lies in it."""
    for inner in (hostile(), hostile(0), build_zip(torch_parts(hostile()))):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo("folder/model.png")
            info.size = len(inner)
            archive.addfile(info, io.BytesIO(inner))
        assert imports(opened(buffer.getvalue())) >= EVIL


def test_sizes_in_tars_may_be_binary():
    """A member's size as GNU's tar writes large ones does not end the walk through the archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, inner in (("first", b"x" * 600), ("second", hostile())):
            info = tarfile.TarInfo(name)
            info.size = len(inner)
            archive.addfile(info, io.BytesIO(inner))
    data = bytearray(buffer.getvalue())
    data[124:136] = b"\x80" + (600).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["first", "second"]
    assert imports(opened(bytes(data))) >= EVIL


def test_archives_of_sound_files_are_examined():
    """A zip of nothing but sound checkpoints is fully examined; one with anything else is not."""
    assert opened(build_zip([Part("a.pt", saved(SD)), Part("b.pt", saved(SD), method=8)])).anomalies == ()
    assert opened(build_zip([Part("a.pt", saved(SD)), Part("b.txt", b"hello")])).skipped


def test_archives_in_archives_end():
    """Nesting without end is given up, and said to be."""
    data = hostile()
    for _ in range(8):
        data = build_zip([Part("x", data)])
    assert "container.nested-limit" in rules(opened(data))


def test_other_members_are_told_in_one_line():
    """What is not examined in an archive is named together; what was refused, or is damaged, is told by itself."""
    parts = [Part(f"{i}.txt", b"hello") for i in range(30)]
    container = opened(build_zip([*parts, Part("x.txt", b"hello", method=8, crc=1)]))
    assert [odd.rule for odd in container.anomalies] == ["container.not-examined", "zip.crc", "container.not-examined"]
    assert len(container.skipped) > 30
    many = opened(build_zip([Part(f"{i}.pkl", b"\x80\x02N.") for i in range(1200)]))
    assert "zip.limit" in rules(many)


def test_exported_programs_are_executable():
    """Archives of torch.export are named as programs, and a checkpoint in one is opened."""
    parts = [Part("m/archive_format", b"pt2"), Part("m/data/x.pt", saved(SD)), Part("m/data/a.so", b"\x7fELF")]
    container = opened(build_zip(parts), "m.pt2")
    assert {"torch.exported", "archive.native-code"} <= rules(container)
    assert container.pickles[0].member == "m/data/x.pt!archive/data.pkl"


def test_torchscript_is_judged_whole():
    """Both pickles of a TorchScript program are traced, its constants' storages checked, and its code is named."""
    import warnings

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.w + torch.tensor([1.0, 2.0, 3.0])

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Net(), torch.ones(3)), buffer)
    container = opened(buffer.getvalue(), "x.pt")
    assert container.kind == "torchscript"
    assert {each.member.partition("/")[2] for each in container.pickles} >= {"data.pkl", "constants.pkl"}
    script = next(odd for odd in container.anomalies if odd.rule == "torch.script")
    assert "executable model" in script.message and "code/__torch__" in script.evidence
    assert not {rule for rule in rules(container) if rule.startswith("tensor.")}


def test_a_part_of_a_source_is_a_source():
    """Reading a part never reaches out of it."""
    whole = BytesSource("whole", bytes(range(100)))
    part = PartOf(whole, "part", 10, 20)
    assert part.size == 20
    assert part.read_at(15, 50) == bytes(range(25, 30))
    assert part.read_at(30, 5) == part.read_at(20, 5) == b""
    buffer = bytearray(30)
    assert part.readinto_at(5, memoryview(buffer)) == 15
    assert bytes(buffer[:15]) == bytes(range(15, 30))
    assert PartOf(whole, "part", 90, 20).size == 10
    assert open_container(PartOf(BytesSource("x", b"??" + hostile()), "part", 2, 1000)).kind == "pickle"
