"""Zip archives: the strict walk tells every way in which two readers could see two archives."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib

import pytest
import torch

from modelhub.anomalies import Anomaly
from modelhub.container.zip_walk import read_member, walk_zip
from modelhub.source import BytesSource
from tests.container.build import Part, build_zip, hostile, imports, opened, rules, saved, torch_parts

CRC = struct.pack("<L", zlib.crc32(b"1234"))


def walk(data: bytes):
    archive = walk_zip(BytesSource("a.zip", data))
    assert archive is not None
    return archive


def told(data: bytes) -> set[str]:
    return {odd.rule for odd in walk(data).anomalies}


def parts() -> list[Part]:
    return [Part("top/a", b"one"), Part("top/b", b"two" * 100, method=8), Part("top/c", b"three", descriptor=True)]


def test_sound_archives_have_no_anomalies():
    """Archives by torch, by Python's zipfile and by our own builder walk without an anomaly."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02N.")
        archive.writestr("ünï", b"")
        with archive.open("big", "w", force_zip64=True) as member:
            member.write(b"abc" * 1000)
    unseekable = io.BytesIO()
    unseekable.seekable = lambda: False  # makes zipfile write data descriptors
    with zipfile.ZipFile(unseekable, "w") as archive:
        archive.writestr("a", b"some bytes")
        archive.writestr("empty", b"")
    for data in (
        saved({"a": torch.ones(3)}),
        buffer.getvalue(),
        unseekable.getvalue(),
        build_zip(parts()),
        build_zip([]),
    ):
        assert walk(data).anomalies == ()
        assert walk(data).whole


def test_members_lie_where_they_are_said_to_lie():
    """Each member's data is found at its absolute offset, and read back whole."""
    data = build_zip(parts())
    found: list[Anomaly] = []
    for part, member in zip(parts(), walk(data).members, strict=True):
        assert (member.name, member.size) == (part.name, len(part.data))
        assert read_member(BytesSource("a", data), member, 1000, found) == part.data
        if member.stored:
            assert data[member.start : member.end] == part.data
    assert found == []


ODD = {
    "comment": (build_zip(parts(), comment=b"hello"), "comment"),
    "bytes after the end": (build_zip(parts()) + b"junk", "trailing-bytes"),
    "bytes before the start": (build_zip(parts(), prefix=b"junk"), "gap"),
    "shifted directory": (b"junk" + build_zip(parts()), "directory-position"),
    "gap": (build_zip([parts()[0], Part("top/b", before=b"hidden")]), "gap"),
    "gap at the end": (build_zip([parts()[0]], shift=0).replace(b"PK\1\2", b"hidPK\1\2"), "directory-position"),
    "two archives": (build_zip(parts()) + build_zip(parts()), "directory-position"),
    "archive in the comment": (build_zip(parts(), comment=build_zip(parts())), "directory-position"),
    "two of one name": (build_zip([Part("t/a", b"1"), Part("t/a", b"2")]), "duplicate-member"),
    "names differ in case": (build_zip([Part("t/a", b"1"), Part("t/A", b"2")]), "case-clash"),
    "two entries, one member": (build_zip([Part("t/a", b"1"), Part("t/b", b"1", offset=0)]), "overlap"),
    "another name locally": (build_zip([Part("t/a", b"1", local_name="t/b")]), "header-mismatch"),
    "another size locally": (build_zip([Part("t/a", b"1", local_size=7)]), "header-mismatch"),
    "other flags locally": (build_zip([Part("t/a", b"1", local_flags=0x20)]), "header-mismatch"),
    "encrypted": (build_zip([Part("t/a", b"1", flags=1)]), "encrypted"),
    "patch data": (build_zip([Part("t/a", b"1", flags=0x20)]), "flags"),
    "bzip2": (build_zip([Part("t/a", b"1", method=12)]), "method"),
    "lying size": (build_zip([Part("t/a", b"1", size=7)]), "size-mismatch"),
    "climbing name": (build_zip([Part("t/../../a", b"1")]), "member-name"),
    "absolute name": (build_zip([Part("/etc/passwd", b"1")]), "member-name"),
    "backslash": (build_zip([Part("t\\a", b"1")]), "member-name"),
    "NUL in name": (build_zip([Part("t/a\0b", b"1")]), "member-name"),
    "second name": (build_zip([Part("t/a", b"1", extra=struct.pack("<HHBL", 0x7075, 5, 1, 0))]), "extra-field"),
    "broken extra": (build_zip([Part("t/a", b"1", extra=b"FB\xff\0Z")]), "extra-field"),
    "descriptor lies": (
        build_zip([Part("t/a", b"1234", descriptor=True)]).replace(b"PK\7\x08" + CRC, b"PK\7\x08zzzz"),
        "data-descriptor",
    ),
    "folder with data": (build_zip([Part("t/a", b"1", attributes=0x10)]), "file-type"),
    "link with data": (build_zip([Part("t/a", b"1", attributes=0o120777 << 16)]), "file-type"),
    "name of a folder": (build_zip([Part("t/a/", b"1")]), "file-type"),
    "no local header": (build_zip(parts()).replace(b"PK\3\4", b"PK\3\5", 1), "local-header"),
    "entry outside": (build_zip([Part("t/a", b"1"), Part("t/b", b"1", offset=1 << 31)]), "local-header"),
    "split": (build_zip(parts())[:-18] + b"\1\0" + build_zip(parts())[-16:], "multi-disk"),
    "broken directory": (build_zip(parts()).replace(b"PK\1\2", b"PK\1\3"), "directory"),
    "fewer entries": (build_zip(parts())[:-14] + b"\1\0\1\0" + build_zip(parts())[-10:], "entry-count"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_every_departure_is_told(name):
    """Whatever could be read in two ways, or hides bytes, is an anomaly of its own rule."""
    data, rule = ODD[name]
    assert f"zip.{rule}" in told(data)


def test_absurd_counts_end_at_once():
    """An end record that announces millions of members is told, not obeyed, and what they are is no hidden bytes."""
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 60, 1 << 60, 1 << 62, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archive = walk(end64 + locator + end)
    rules = {odd.rule for odd in archive.anomalies}
    assert "zip.limit" in rules
    assert "zip.gap" not in rules
    assert not archive.whole


def test_zip64_end_records_must_agree():
    """A zip64 end record that contradicts the plain one is told: readers differ on which they believe."""
    data = saved({"a": torch.ones(3)})
    at = data.rindex(b"PK\6\6")
    changed = data[: at + 24] + struct.pack("<2Q", 1, 1) + data[at + 40 :]
    assert "zip.zip64" in told(changed)
    pointing = data[:-34] + struct.pack("<Q", 5) + data[-26:]
    assert "zip.zip64" in told(pointing)


def test_bombs_are_not_unpacked():
    """A member that unpacks to more than the limit is not unpacked; one that lies, no further than it says."""
    bomb = Part("t/data.pkl", bytes(20 << 20), method=8)
    honest = build_zip([bomb])
    bomb.size = 1000
    lying = build_zip([bomb])
    found: list[Anomaly] = []
    assert read_member(BytesSource("a", honest), walk(honest).members[0], 1 << 20, found) is None
    assert read_member(BytesSource("a", lying), walk(lying).members[0], 1 << 20, found) == bytes(1000)
    assert [odd.rule for odd in found] == ["zip.limit", "zip.bomb", "zip.crc"]


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (Part("t/a", b"1234", crc=1), "zip.crc"),
        (Part("t/a", b"1234", crc=0), "zip.no-crc"),
        (Part("t/a", b"1234" * 9, method=8, size=40), "zip.size-mismatch"),
    ],
)
def test_checksums_and_sizes_of_members(part, rule):
    """A wrong checksum, none at all, and a wrong size are told apart; the bytes are returned all the same."""
    data = build_zip([part])
    found: list[Anomaly] = []
    assert read_member(BytesSource("a", data), walk(data).members[0], 1000, found) == part.data
    assert rule in {odd.rule for odd in found}


def test_what_torch_unpacks_of_a_broken_member_is_seen():
    """A member whose packed bytes break off, or are broken, is unpacked as far as torch unpacks it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    sound = packer.compress(hostile()) + packer.flush(zlib.Z_FULL_FLUSH)
    for after in (b"\xff" * 40, b""):
        evil = Part("archive/data.pkl", hostile(), method=8, packed=sound + after)
        container = opened(build_zip([evil, Part("archive/version", b"3\n")]))
        assert rules(container) == {"zip.deflate"}
        assert imports(container) == imports(opened(hostile()))


def test_many_pickles_in_overlapping_members_end_soon():
    """Thousands of entries over one and the same pickle do not multiply the work."""
    data = build_zip([Part("t/0.pkl", hostile()), *(Part(f"t/{i}.pkl", hostile(), offset=0) for i in range(5000))])
    begun = time.monotonic()
    container = opened(data)
    assert time.monotonic() - begun < 5
    assert {"zip.overlap", "zip.limit"} <= rules(container)
    assert len(container.anomalies) < 200 and len(container.skipped) < 100
    assert "os.mkdir" in imports(container) or "posix.mkdir" in imports(container)


def test_plain_archives_are_not_examined_but_their_pickles_are_seen():
    """A zip that is not PyTorch's is said not to be examined; pickles in it are traced all the same."""
    container = opened(build_zip([Part("readme", b"text"), Part("deep/x.bin", hostile(), method=8)]), "x.zip")
    assert container.kind == "zip"
    assert rules(container) == {"container.not-examined"}
    assert container.skipped
    assert [program.role for program in container.pickles] == ["other"]
    assert len(imports(container)) == 1


def test_truncated_archives():
    """An archive without its end is told as cut off."""
    container = opened(build_zip(parts())[:60], "x.zip")
    assert container.kind == "zip"
    assert rules(container) == {"zip.truncated"}
    assert container.skipped


def test_of_two_archives_the_one_that_torch_reads_is_read():
    """Where torch and Python's zipfile see different archives in one file, torch's is read and the difference told."""
    evil = hostile()
    harmless = b"\x80\x02}X" + struct.pack("<L", len(evil) - 8) + bytes(len(evil) - 8)
    data = build_zip(torch_parts(evil)) + build_zip(torch_parts(harmless))
    assert torch._C.PyTorchFileReader(io.BytesIO(data)).get_record("data.pkl") == evil
    assert zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl") != evil
    container = opened(data)
    assert "zip.directory-position" in rules(container)
    assert imports(container) == imports(opened(evil))
