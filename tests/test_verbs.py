"""The verbs over file objects, and the options of ``scan``."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import modelhub
from modelhub.errors import ChangedDuringRead, SourceError
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.scan import Verdict
from modelhub.tensors import DType

LAYOUT = {"first.weight": (DType.F16, (4, 8)), "first.bias": (DType.F32, (4,))}


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = str(tmp_path / "safe.pt")
    write_torch_zip(path, random_weights(LAYOUT, seed=1))
    return path


def _pickle(module: str, name: str, *arguments: object) -> bytes:
    return dumps(Call(Import(module, name), arguments))


class _Pipe(io.RawIOBase):
    """A stream that can only be read forward, a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        got = self._rest[: min(len(buffer), 7)]
        buffer[: len(got)] = got
        self._rest = self._rest[len(got) :]
        return len(got)


def test_file_objects_are_judged_like_their_path(checkpoint: str) -> None:
    """An open file, bytes in memory and a stream that cannot seek get the report that the path gets."""
    data = Path(checkpoint).read_bytes()
    by_path = modelhub.scan(checkpoint)
    with open(checkpoint, "rb") as file:
        reports = [modelhub.scan(file), modelhub.scan(io.BytesIO(data)), modelhub.scan(_Pipe(data))]
        assert file.tell() == 0, "the caller goes on to load it"
    for report in reports:
        assert report.verdict is by_path.verdict is Verdict.SAFE
        assert report.container == "torch-zip"
        assert report.digest == by_path.digest
    assert [report.path for report in reports] == [checkpoint, "<file object>", "<file object>"]


def test_a_file_object_is_judged_from_its_position_on(checkpoint: str) -> None:
    """What lies before the present position is what no loader would read, and is not judged."""
    payload = _pickle("os", "system", "echo harmless")
    data = Path(checkpoint).read_bytes()
    stream = io.BytesIO(payload + data)
    stream.seek(len(payload))
    report = modelhub.scan(stream)
    assert report.verdict is Verdict.SAFE
    assert stream.tell() == len(payload)
    assert report.digest is not None and report.digest.sha256 == hashlib.sha256(data).hexdigest()
    stream.seek(0)
    assert modelhub.scan(stream).verdict is Verdict.UNSAFE


def test_file_objects_over_other_bytes_than_their_descriptor(tmp_path: Path, checkpoint: str) -> None:
    """A file object that unpacks what it reads is judged by what it gives, not by the file below it."""
    packed = tmp_path / "model.gz"
    packed.write_bytes(gzip.compress(_pickle("os", "system", "echo harmless")))
    with gzip.open(packed) as unpacking:
        assert modelhub.scan(unpacking).container == "pickle"
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as outer:
        outer.write(checkpoint, "inner.pt")
    with zipfile.ZipFile(tmp_path / "outer.zip") as outer, outer.open("inner.pt") as inner:
        assert modelhub.scan(inner).verdict is Verdict.SAFE


def test_the_other_verbs_take_file_objects(checkpoint: str) -> None:
    """identify and inspect take what scan takes."""
    with open(checkpoint, "rb") as file:
        assert modelhub.identify(file).precision == "mixed"
        assert len(list(modelhub.inspect(file).tensors())) == 2


class _Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if size == 0:
            return b""
        raise OSError(5, "Input/output error")


def test_file_objects_that_cannot_be_read(tmp_path: Path) -> None:
    """A closed, broken or text file is an error of its own kind, never a verdict."""
    closed: BinaryIO = io.BytesIO(b"data")
    closed.close()
    for file in (closed, _Broken(b"x" * 100)):
        with pytest.raises(SourceError):
            modelhub.scan(file)
    with pytest.raises(TypeError, match="bytes"):
        modelhub.scan(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int"):
        modelhub.scan(3)  # type: ignore[arg-type]


def test_nothing_is_left_of_a_stream(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is kept in a file that is gone afterwards."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    modelhub.scan(_Pipe(Path(checkpoint).read_bytes()))
    assert not list(folder.iterdir())
    if descriptors is not None:
        assert len(os.listdir("/proc/self/fd")) == descriptors


class _Growing(io.BytesIO):
    """Grows by a byte at each read."""

    def read(self, size: int | None = -1, /) -> bytes:
        here = self.tell()
        self.seek(0, os.SEEK_END)
        self.write(b"\0")
        self.seek(here)
        return super().read(size)


def test_a_file_object_that_changes_meanwhile(checkpoint: str) -> None:
    """A file object that is longer after the scan than before has no report."""
    with pytest.raises(ChangedDuringRead):
        modelhub.scan(_Growing(Path(checkpoint).read_bytes()))


def test_deep_finds_what_lies_in_tensor_data(tmp_path: Path) -> None:
    """A flipped bit in tensor data is not seen by a scan, which does not read it, and is by a deep one."""
    path = str(tmp_path / "flipped.pt")
    write_torch_zip(path, random_weights({"w": (DType.F32, (1 << 16,))}, seed=4))
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
    assert modelhub.scan(path).verdict is Verdict.SAFE
    deep = modelhub.scan(path, deep=True, second_opinion=False)
    assert deep.verdict is not Verdict.SAFE
    assert [finding.rule for finding in deep.findings] == ["zip.crc"]


def test_deep_tells_every_byte(tmp_path: Path) -> None:
    """The progress of a deep scan, with a digest or without, comes to the bytes of the file."""
    for write in (write_torch_zip, write_torch_legacy):
        path = str(tmp_path / f"{write.__name__}.pt")
        write(path, random_weights(LAYOUT, seed=5))
        told: list[int] = []
        assert modelhub.scan(path, deep=True, digest=False, progress=told.append).verdict is Verdict.SAFE
        assert sum(told) == os.path.getsize(path)
        told.clear()
        modelhub.scan(path, deep=True, digest=True, progress=told.append)
        assert sum(told) == 2 * os.path.getsize(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files about which fickling is asked; it has nothing to say."""
    paths: list[str] = []

    def opinion(container: Any, report: Any, **options: object) -> Any:
        paths.append(os.path.basename(container.name))
        return report

    monkeypatch.setattr("modelhub.scan.second_opinion.second_opinion", opinion)
    return paths


def test_a_second_opinion_is_asked_where_it_can_matter(tmp_path: Path, checkpoint: str, asked: list[str]) -> None:
    """Unasked for, fickling is heard of pickles that are unknown or suspicious; asked for, of any; else of none."""
    Path(tmp_path / "unsafe.pkl").write_bytes(_pickle("os", "system", "echo harmless"))
    Path(tmp_path / "odd.pkl").write_bytes(_pickle("mymodels.nets", "Net"))
    Path(tmp_path / "note.pkl").write_bytes(b"<html>")
    files = [checkpoint, *(str(tmp_path / name) for name in ("unsafe.pkl", "odd.pkl", "note.pkl"))]
    for path in files:
        modelhub.scan(path)
    assert asked == ["odd.pkl"]
    asked.clear()
    for path in files:
        modelhub.scan(path, second_opinion=True)
    assert asked == ["safe.pt", "unsafe.pkl", "odd.pkl"]
    asked.clear()
    for path in files:
        modelhub.scan(path, second_opinion=False)
    assert asked == []
