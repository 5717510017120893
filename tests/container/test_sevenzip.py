"""7z archives: what is in them is judged, and what cannot be unpacked is said not to have been."""

from __future__ import annotations

import base64
import io
import pickle
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.container import open_container
from modelhub.container.nesting import MAX_INNER
from modelhub.scan import Verdict, scan
from modelhub.source import BytesSource
from tests.container.build import build_zip, hostile, imports, opened, rules, saved, torch_parts
from tests.container.seven import BZIP2, COPY, DEFLATE, ENCRYPTED, LZMA2, UNKNOWN, Packed, build_7z, number

SAFE = pickle.dumps({"a": [1, 2, 3]}, 4)
METHODS = {"lzma2": LZMA2, "bzip2": BZIP2, "copy": COPY, "deflate": DEFLATE}
OTHERS = {  # written by py7zr 1.1.4: safe.pkl, dir/evil.pkl (os.system('true')), empty.txt
    "LZMA2 with BCJ": """
        N3q8ryccAASz8KThxQAAAAAAAAAWAAAAAAAAAB0tjI8BADaABJUSAAAAAAAAAH2UjAFhlF2UKEsBSwJLA2VzLmNwb3NpeApzeXN0ZW0KKFMndH
        J1ZScKdFIuAOAApACCXQAAgTMHrg/Rp0+UoIppsLnhSq6hiO9BhK+kiC0sRkPPM4uR+swt5uJpDvhnirKsmV3tY800FhqGheP6XGvv9RSe0oUj
        OMonkoM3THPjBLE6eezWvlbPU3bXPV7oz9kXJcxsNn1eivFLGB+wVWrAaEtksiE88+w0K9ac0RIvNxA8AAAAABcGOwEJgIoABwsBAAEhIQEYDI
        ClAAA=""",
    "BZip2": """N3q8ryccAAS0XgTo5gAAAAAAAAAWAAAAAAAAAGh9Rn9CWmg5MUFZJlNZ47ef2AAAF/fgfBAQAADBAAgYAioi3mJABAYAIABUUCYmTATA
        AKmnqaaDJk02owxJqvLg1qzOd3YGWI3n5HsgboJsHdxWYBJBTZIgcvgac50XckU4UJDjt5/Y4ACcAHpdAACBMweuD9PDgP1AwJDO5ct29kHZ
        nJEOfdyHvHgqoE9T/NtNIbVanBx+HIiI+5M06L5ONN4Jw3Mv3WIndpRzL5layZb6l4fyxArTgxzvZ9Usp6gQmM5LFV8/0vww/Y8zkQG/knBv
        Xfz7Rq7HTC6+v4gywkwMhgyQAAAAABcGZAEJgIIABwsBAAEhIQEYDICdAAA=""",
    "PPMd": """N3q8ryccAARbZUMbvQAAAAAAAAAWAAAAAAAAABlD1BEAf4T8PFfiVTnMlut6AnaFnrN672pY4YIOeeFplC6uc/b9yijCe4PLG3Amj1ph
        SiicPplOAOAApACAXQAAgTMHrg/RTICooJCgd7D++v4u1qo3HqWJnAL4a1Q9RF8SthxyC3wD4BFiQjAmYz/kJBvPeFOQ+FrUPG/CdJw3QkSy
        LpgWn4HwSwDGf+CsAHWMu1h6/ts44Ag0DAipt4XAgLSO09SX+QN7nZPpVFaed0Nvtfh0d0ZF2CYfaAAAAAAXBjUBCYCIAAcLAQABISEBGAyA
        pQAA""",
    "encrypted": """N3q8ryccAATH2vl1EAEAAAAAAAAqAAAAAAAAAFdA7nzNT06rZWdQMsAT+PjBJvOag6HCI9muQAL+eDjM1XrM2ZUmxyRJa72GG0Jp
        Y8/koVcQprQPBHimtZaula/H0SYJMlBGwMD7luNhH4/Jm76K0KiHJd0PmCinVKehPzkB3627FepnZd5rmysFxPaPUTgQS1vEPZnS2IN59paa
        W1EM0clVpMpX5hzhIirziY4vnSu7DMAfNcspZEZ+VxeXshifR2dH7r71wyQ3ESWLEtLOcCgcnrM3eDiKaQoxHNdyx4OIxl0cw/lNxI4Gkx2L
        DeK68DwWoJJrbadpfHMBjg/QfNvzgzNsKQ5n6rRgFe4GvS6STGIimkF/Gf7Lw6Fw4yxdpVzFp6CxQnjZM46n9oIGVxcGQAEJgNAABwsBAAEk
        BvEHARJTD0w6Gz3fmf57Zj0L0f3+uyoMgMEAAA==""",
}


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(6.0))
    return stream.getvalue()


def verdict(data: bytes) -> Verdict:
    return scan(opened(data)).verdict


@pytest.mark.parametrize("name", ["LZMA2 with BCJ", "BZip2"])
def test_archives_of_another_program_are_judged(name):
    """What another program packed, its packed header included, is unpacked and judged by what is in it."""
    container = opened(base64.b64decode(OTHERS[name]))
    assert [each.member for each in container.pickles] == ["safe.pkl", "dir/evil.pkl"]
    assert imports(container) == {"posix.system"}
    assert container.anomalies == () and container.skipped == ()
    assert scan(container).verdict is Verdict.UNSAFE


@pytest.mark.parametrize(("name", "rule"), [("PPMd", "archive.method"), ("encrypted", "archive.encrypted")])
def test_what_cannot_be_unpacked_is_said_to_be(name, rule):
    """A method that is not known here, or encryption, leaves the archive unknown."""
    container = opened(base64.b64decode(OTHERS[name]))
    assert rules(container) == {rule}
    assert scan(container).verdict is Verdict.UNKNOWN
    assert opened(build_7z([Packed({"a": SAFE}, UNKNOWN)])).skipped
    assert rules(opened(build_7z([Packed({"a": SAFE}, ENCRYPTED)]))) == {"archive.encrypted"}


@pytest.mark.parametrize("pack_header", [False, True])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_members_are_judged_as_files(method, pack_header):
    """Every member is opened as the file it is: checkpoints with their tensors' bytes, pickles, nested archives."""
    inner = build_7z([Packed({"deep.pkl": hostile()}, method)], pack_header=pack_header)
    good = {"a.pkl": SAFE, "m.pt": saved({"w": [1]}), "n.npy": array()}
    assert verdict(build_7z([Packed(good, method)], pack_header=pack_header)) is Verdict.SAFE
    for bad in ({"x": hostile()}, {"x.pt": build_zip(torch_parts(hostile()))}, {"x.7z": inner}):
        container = opened(build_7z([Packed(good, method), Packed(bad, method)], pack_header=pack_header))
        assert imports(container) >= imports(opened(hostile()))
        assert scan(container).verdict is Verdict.UNSAFE


def test_one_archive_of_arrays_is_not_an_npz():
    """Arrays in a 7z are judged and, being packed together, not taken for tensors that could be copied."""
    container = opened(build_7z([Packed({"a.npy": array(), "b.npy": array()})]))
    assert container.state_dict is None
    assert scan(container).verdict is Verdict.SAFE


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (build_7z([Packed({"a": SAFE})], after=b"x"), "archive.hole"),
        (build_7z([Packed({"a": SAFE}, COPY, packed=SAFE[:-1])]), "archive.broken"),
        (build_7z([Packed({"a": SAFE}, COPY, packed=SAFE + b"hidden")]), "archive.hole"),
        (build_7z([Packed({"a": SAFE}, crc=1)]), "archive.checksum"),
        (build_7z([Packed({"a": SAFE, "A": SAFE})]), "archive.duplicate-member"),
        (build_7z([Packed({"../a": SAFE})]), "archive.member-name"),
        (build_7z([Packed({"/a": SAFE})]), "archive.member-name"),
        (build_7z([Packed({"c:\\a": SAFE})]), "archive.member-name"),
        (build_7z([Packed({"a": b"/etc/passwd"})], links=True), "archive.member-name"),
        (build_7z([Packed({"a": SAFE})])[:40], "archive.broken"),
        (build_7z([Packed({"a": SAFE}, packed=b"\x01\x02")]), "archive.broken"),
        (build_7z([Packed({"a": SAFE}, size=1 << 60)]), "container.nested-limit"),
        (build_7z([Packed({"a": SAFE}, (b"\x21", b"\xff", bytes))]), "archive.broken"),
    ],
)
def test_archives_that_lie_are_not_safe(data, rule):
    """What contradicts itself, hides bytes or leads out of a folder is told, and never safe."""
    container = opened(data)
    assert rule in rules(container)
    assert scan(container).verdict is not Verdict.SAFE


def test_an_empty_archive_is_not_safe():
    """An archive without members, or with empty ones only, has nothing that could be judged."""
    for data in (build_7z([]), build_7z([])[:8] + struct.pack("<L", zlib.crc32(bytes(20))) + bytes(20)):
        assert verdict(data) is Verdict.UNKNOWN


def test_long_members_are_judged_by_their_beginning():
    """Of a member that is too long for memory the beginning is judged, and what lies behind it is not passed over."""
    long = hostile() + bytes(MAX_INNER)
    container = opened(build_7z([Packed({"long.pkl": long, "behind.pkl": SAFE})]))
    assert imports(container) >= imports(opened(hostile()))
    assert {skip.member for skip in container.skipped} >= {"long.pkl", "behind.pkl"}


def test_bombs_end_soon():
    """An archive that unpacks to gigabytes, or has very many members, takes no long time."""
    packed = LZMA2[2](bytes(48 << 20))
    bomb = build_7z([Packed({f"{index}": b""}, packed=packed, size=48 << 20) for index in range(40)])
    many = build_7z([Packed({f"{n}": b"N." for n in range(30_000)})])
    begun = time.process_time()
    assert verdict(bomb) is not Verdict.SAFE
    assert verdict(many) is Verdict.UNKNOWN
    assert time.process_time() - begun < 10


def test_absurd_numbers_cost_nothing():
    """A header that announces more than it can hold is refused before anything is made for it."""
    header = b"\1\4\6" + number(0) + number(1 << 62)
    for tail in (header, b"\1\5" + number(90_000), b"\x17" * 100, b"\1\4\7\x0b" + number(99_999) + b"\0\1\x3f"):
        start = struct.pack("<QQL", 0, len(tail), zlib.crc32(tail))
        data = b"7z\xbc\xaf\x27\x1c\0\4" + struct.pack("<L", zlib.crc32(start)) + start + tail
        assert rules(opened(data)) == {"archive.broken"}


def _fixed(data: bytes) -> bytes:
    """*data* with checksums that match, so that what was changed is read."""
    offset, size = struct.unpack_from("<QQ", data, 12)
    header = data[32 + offset : 32 + offset + size]
    start = struct.pack("<QQL", offset, size, zlib.crc32(header))
    return data[:8] + struct.pack("<L", zlib.crc32(start)) + start + data[32:]


@settings(max_examples=300)
@given(st.data(), st.booleans())
def test_no_bytes_make_it_raise(data, pack_header):
    """Whatever stands in a header whose checksums match, opening the archive ends in a container."""
    whole = bytearray(
        build_7z([Packed({"a": SAFE, "b": hostile()}), Packed({"c": SAFE}, COPY)], pack_header=pack_header)
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(32, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    container = open_container(BytesSource("x.7z", _fixed(bytes(whole))))
    assert scan(container).verdict is not Verdict.SAFE or not imports(container)
