"""The door: every file is known by its content, whatever its name says, and no content makes it raise."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import time
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelhub.container import KINDS, open_container, open_path
from modelhub.container.sniff import HEAD, sniff
from modelhub.errors import NotFound, SourceError
from modelhub.source import BytesSource
from tests.container.build import Marker, Part, build_zip, hostile, imports, opened, rules, saved, torch_parts

SD = {"a": torch.ones(4), "b": torch.zeros(2, dtype=torch.float16)}
HTML = b"\n  <!DOCTYPE html><html><head><title>404 Not Found</title></head>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2132856622\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x10"


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def tar_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FILES = {
    "safetensors": safetensors.torch.save(SD),
    "torch-zip": saved(SD),
    "torch-legacy": saved(SD, legacy=True),
    "torch-tar": tar_of(sys_info=pickle.dumps({}, 2), pickle=pickle.dumps([], 2), tensors=b"", storages=b""),
    "torchscript": build_zip([*torch_parts(pickle.dumps([], 2)), Part("archive/code/__torch__.py", b"pass")]),
    "pickle": pickle.dumps(["a"], 4),
    "gguf": b"GGUF\3\0\0\0" + bytes(16),
    "onnx": ONNX,
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "numpy": numpy_file(),
    "zip": build_zip([Part("readme.txt", b"hello")]),
    "tar": tar_of(readme=b"hello"),
    "7z": b"7z\xbc\xaf\x27\x1c\0\4" + bytes(30),
    "rar": b"Rar!\x1a\x07\1\0" + bytes(30),
    "gzip": gzip.compress(b"hello"),
    "bz2": b"BZh91AY&SY" + bytes(20),
    "xz": lzma.compress(b"hello"),
    "lzma": lzma.compress(b"hello", lzma.FORMAT_ALONE),
    "zlib": zlib.compress(b"hello"),
    "lz4": b"\x04\x22\x4d\x18" + bytes(20),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "html": HTML,
    "git-lfs-pointer": LFS,
    "json": b'{"error": "unauthorized"}',
    "text": "prompt: a cät\nsteps: 20\n".encode(),
    "image": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "empty": b"",
    "unknown": bytes(range(255, 0, -1)),
}


def test_every_kind_has_an_example_here():
    """Each kind of file that has a name is recognised in a test, folders in their own."""
    assert set(FILES) | {"diffusers-folder", "model-folder"} == set(KINDS)


@pytest.mark.parametrize("name", ["file", "model.safetensors", "model.ckpt", "image.png"])
@pytest.mark.parametrize("kind", FILES)
def test_kind_is_told_by_content(kind, name):
    """A file's kind is that of its bytes under any name."""
    assert opened(FILES[kind], name).kind == kind


@pytest.mark.parametrize("kind", FILES)
def test_nothing_passes_for_examined_that_was_not(kind):
    """A kind of file that has no reader has an anomaly saying what it is, and skipped bytes where there are any."""
    container = opened(FILES[kind])
    if kind in ("safetensors", "torch-zip", "torch-legacy", "pickle", "numpy", "gguf"):
        assert container.anomalies == () and container.skipped == ()
    else:
        assert container.anomalies
        assert container.state_dict is None or kind == "torchscript"
        assert container.skipped or kind in ("empty", "git-lfs-pointer")


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        ("html", "container.html-page", "the download failed"),
        ("git-lfs-pointer", "container.lfs-pointer", "git lfs pull"),
        ("empty", "container.empty", "empty"),
        ("unknown", "container.unknown", "no kind"),
        ("hdf5", "container.not-examined", "an HDF5 file"),
        ("rar", "container.not-examined", "a RAR archive"),
        ("7z", "archive.broken", "the 7z archive's members cannot be told"),
    ],
)
def test_people_are_told_what_they_have(kind, rule, words):
    """One anomaly says in a sentence what the file is, whatever model it is named after."""
    container = opened(FILES[kind], "x.safetensors")
    odd = next(odd for odd in container.anomalies if odd.rule == rule)
    assert words in odd.message


def test_evidence_of_failed_downloads():
    """The page's title and the pointer's size help to see what went wrong."""
    assert opened(FILES["html"]).anomalies[0].evidence == "404 Not Found"
    assert "2132856622" in opened(FILES["git-lfs-pointer"]).anomalies[0].evidence
    assert opened(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>').kind == "html"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pickle", "x.safetensors"),
        ("torch-zip", "X.SAFETENSORS"),
        ("safetensors", "x.ckpt"),
        ("gguf", "x.pt"),
        ("pickle", "x.png"),
    ],
)
def test_names_that_promise_something_else(kind, name):
    """An extension that promises another kind of file is told."""
    assert "container.wrong-extension" in rules(opened(FILES[kind], name))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pickle", "x.pkl"),
        ("torch-zip", "x.bin"),
        ("torch-legacy", "x.pth"),
        ("safetensors", "x.sft"),
        ("html", "x.pt"),
        ("pickle", "x"),
    ],
)
def test_names_that_say_nothing_wrong(kind, name):
    """A fitting extension, or none, is no anomaly; neither is that of a failed download."""
    assert "container.wrong-extension" not in rules(opened(FILES[kind], name))


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_recognised(protocol):
    """A pickle without PROTO looks like a text, and is still found to be a pickle, under any name."""
    for name in ("x.png", "x.txt", "x"):
        container = opened(hostile(protocol), name)
        assert container.kind == "pickle"
        assert len(imports(container)) == 1


@pytest.mark.parametrize(
    "text", [b"I am no pickle.\n", b"Notes\nfor you\n", b"(c) 2024 somebody\nall rights", b"cats and dogs\nare nice\n"]
)
def test_prose_is_no_pickle(text):
    """A text that begins with the letter of an opcode remains a text."""
    assert opened(text).kind == "text"


def test_pickle_in_another_format():
    """A file that is of another format and at the same time runs as a pickle is told, and the pickle is seen."""
    evil = hostile(0)
    container = opened(b"GGUF\3\0\0\0\0" + b"0" + evil, "model.gguf")
    assert container.kind == "gguf"
    assert "container.polyglot" in rules(container)
    assert imports(container) == imports(opened(evil))


def test_zip_behind_a_pickle():
    """A pickle with an archive behind it is a pickle, as torch takes it, with bytes too many that are an archive."""
    container = opened(hostile() + build_zip(torch_parts(b"\x80\x02}.")), "x.pt")
    assert container.kind == "pickle"
    assert rules(container) >= {"pickle.trailing-bytes", "container.polyglot"}
    assert len(imports(container)) == 1


@pytest.mark.parametrize("name", ["model.safetensors.crdownload", "MODEL.CKPT.part", "blob.incomplete"])
def test_unfinished_downloads_are_known_by_their_names(name):
    """What browsers and download programs call a file that they are still fetching is told."""
    assert "container.partial-download" in rules(opened(FILES["torch-zip"], name))
    assert "container.partial-download" not in rules(opened(FILES["torch-zip"], "part.ckpt"))


def test_tar_is_found_before_pickles_are():
    """torch tries tar before its legacy format, by checksum alone; so a tar that begins like a pickle is a tar."""
    data = bytearray(tar_of(**{"\x80\x02N.x": b"", "pickle": hostile()}))
    data[0:3] = b"\x80\x02N"
    data[257:263] = bytes(6)  # no 'ustar' magic: tarfile does not ask for it
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with tarfile.open(fileobj=io.BytesIO(bytes(data)), mode="r:") as archive:
        assert "pickle" in archive.getnames()
    container = opened(bytes(data))
    assert container.kind == "torch-tar"
    assert len(imports(container)) == 1


def test_tar_that_runs_as_a_pickle():
    """A tar whose first member's name is a pickle would also run as one, and is judged as both."""
    evil = pickle.dumps(Marker("m"), 0)
    for members in ({evil.decode("ascii"): b"x"}, {evil.decode("ascii"): b"", "pickle": pickle.dumps([], 2)}):
        container = opened(tar_of(**members))
        assert "container.polyglot" in rules(container)
        assert imports(container) == imports(opened(evil))


@pytest.mark.parametrize("member", ["sys_info", "storages", "tensors", "pickle"])
def test_pickles_in_a_torch_tar_are_seen(member):
    """Every member of a tar checkpoint that torch unpickles is looked at, behind a first pickle too."""
    evil = hostile()
    members = {name: pickle.dumps(0, 2) for name in ("sys_info", "storages", "tensors", "pickle")}
    members[member] = evil if member == "pickle" else pickle.dumps(1, 2) + evil
    container = opened(tar_of(**members), "x.pt")
    assert container.kind == "torch-tar"
    assert imports(container) == imports(opened(evil))


def test_open_path_opens_and_closes(tmp_path):
    """A file opened by path can be read inside the block, and is closed after it."""
    path = tmp_path / "x.ckpt"
    path.write_bytes(FILES["torch-zip"])
    with open_path(path) as container:
        assert container.kind == "torch-zip"
        assert container.name == str(path)
        assert container.source.read_at(0, 2) == b"PK"
    with pytest.raises((SourceError, OSError, ValueError)):
        container.source.read_at(0, 2)


def test_open_path_says_what_it_cannot_have(tmp_path):
    """A missing file and a folder without a pipeline are errors of the source, in one sentence."""
    with pytest.raises(NotFound, match="no such file"), open_path(tmp_path / "none.ckpt"):
        pass
    with pytest.raises(SourceError, match=r"model_index\.json"), open_path(tmp_path):
        pass


def test_errors_of_reading_are_not_swallowed():
    """Bytes that cannot be had raise; they are not taken for an empty or broken file."""

    class Failing(BytesSource):
        def read_at(self, offset: int, length: int) -> bytes:
            raise SourceError("x: reading failed")

    with pytest.raises(SourceError):
        open_container(Failing("x", b"abc"))


SEEDS = [FILES[kind] for kind in FILES if kind not in ("empty", "html", "image", "json", "text", "unknown")]


def check_never_raises(data: bytes) -> None:
    """Opening *data* does not raise, ends soon, and either examined it all or says that it did not."""
    begun = time.monotonic()
    container = opened(data, "x.ckpt")
    assert time.monotonic() - begun < 5
    assert container.kind in KINDS
    for info in (container.state_dict or {}).values():
        assert info.start >= 0 and info.nbytes >= 0
        if not container.anomalies and info.storage.plain:
            assert info.storage.start + info.storage.nbytes <= len(data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=600))
def test_no_bytes_make_it_raise(data):
    """Any bytes at all open as something."""
    check_never_raises(data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([b"PK\3\4", b"PK\5\6", b"\x80\x02", b"\x80\x04\x95", *[seed[:20] for seed in SEEDS]]),
    st.binary(max_size=400),
)
def test_no_beginning_makes_it_raise(start, data):
    """Nor do bytes that begin like a known format."""
    check_never_raises(start + data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_damage_makes_it_raise(data):
    """Nor does any damage to a sound file: changed, missing, doubled or added bytes."""
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(seed) - 1))
        kind = data.draw(st.sampled_from(["set", "ones", "cut", "double", "insert"]))
        if kind == "set":
            seed[at] = data.draw(st.integers(0, 255))
        elif kind == "ones":
            seed[at : at + 4] = b"\xff\xff\xff\xff"
        elif kind == "cut":
            del seed[at : at + data.draw(st.integers(1, 64))]
        elif kind == "double":
            seed[at:at] = seed[at : at + 64]
        else:
            seed[at:at] = data.draw(st.binary(max_size=16))
        if not seed:
            break
    check_never_raises(bytes(seed))


@pytest.mark.parametrize("kind", ["safetensors", "torch-zip", "torch-legacy", "pickle", "numpy", "gguf"])
def test_no_cut_goes_unnoticed(kind):
    """A file cut off at any byte is never taken for a whole one."""
    whole = FILES[kind]
    for length in range(len(whole)):
        container = opened(whole[:length])
        broken = any(not program.trace.complete for program in container.pickles)
        assert container.anomalies or container.skipped or broken, length


def test_sniffing_needs_only_the_head():
    """The kind that the first bytes tell does not change with the rest."""
    for kind, data in FILES.items():
        if kind not in ("torch-zip", "torchscript", "torch-tar"):
            assert sniff(data[:HEAD], len(data)) == kind


def test_modules_of_this_room_are_light():
    """Opening files loads neither numpy nor torch, nor the standard library's archive and pickle modules."""
    import subprocess
    import sys

    code = "import sys, modelhub.container; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    ).stdout
    unwanted = {
        "numpy",
        "torch",
        "zipfile",
        "tarfile",
        "pickle",
        "pickletools",
        "pathlib",
        "tempfile",
        "logging",
        "safetensors",
    }
    assert not unwanted & set(loaded.split())


def test_structure_sizes_are_those_of_the_formats():
    """A zip whose numbers are all ones is told as broken, not followed."""
    end = struct.pack("<4s4H2LH", b"PK\5\6", *[0xFFFF] * 4, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF)
    assert opened(b"PK\3\4" + b"\xff" * 60 + end).anomalies
