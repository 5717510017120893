"""Downloads outside the Hub: gone on with where they broke off, and never put together from two files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from modelhub.errors import SourceError
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from modelhub.source import download as downloading
from modelhub.source import web
from modelhub.source.download import download
from modelhub.tensors import DType
from tests.cli.run import modelhub
from tests.hub.server import Blob, Fault, Hub, _Handler
from tests.hub.test_fetch import SYSTEM, files

NAME = "x.safetensors"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(web.time, "sleep", lambda _: None)
    write_safetensors(str(tmp_path / "made"), random_weights({"a": (DType.F32, (1000, 500))}, seed=1), {})
    return (tmp_path / "made").read_bytes()


def breaking(after: int, times: int, *, tag: str | None = None, resumes: bool = True) -> Fault:
    """A fault by which *times* downloads of a whole file, or of the rest of one, break off *after* so many bytes.

    Only requests of downloads count: those for a range that has no end, and those for none. *tag* is the ETag, and
    without *resumes* ranges of downloads are ignored.
    """
    left = [times]

    def fault(handler: _Handler, part: str) -> bool:
        asked = handler.headers.get("range", "")
        if part != "file" or (asked and not asked.endswith("-")):
            return False
        blob = handler.hub.loose[handler.path[1:].partition("?")[0]]
        if asked and (not resumes or handler.headers["if-range"] != (tag or f'"{blob.etag}"')):
            del handler.headers["range"]
        cut = after if left[0] > 0 else None
        left[0] -= 1
        handler.bytes_of(blob, {"ETag": tag or f'"{blob.etag}"'}, cut=cut)
        return True

    return fault


def downloads(hub: Hub) -> list[str]:
    """The ranges that downloads have asked for."""
    asked = [seen.headers.get("range", "all") for seen in hub.asked("storage")]
    return [each for each in asked if each == "all" or each.endswith("-")]


def fetched(address: str, *more: str):
    return modelhub("fetch", address, "--catalog", "../c.db", "--format", "json", *more)


def test_a_download_that_breaks_goes_on(hub: Hub, data: bytes) -> None:
    """When a connection breaks, only the rest is asked for, on the condition that the file is still the same."""
    hub.fault = breaking(500_000, 3)
    ran = fetched(hub.put(NAME, data), "--sha256", hashlib.sha256(data).hexdigest())
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "fetched")
    assert Path(NAME).read_bytes() == data
    assert downloads(hub) == ["all", "bytes=500000-", "bytes=1000000-", "bytes=1500000-"]
    assert [seen.headers["if-range"] for seen in hub.asked("storage") if "if-range" in seen.headers] == [
        f'"{Blob(data).etag}"'
    ] * 3
    assert not [name for name in files() if "part" in name or "quarantine" in name]


def test_the_next_run_goes_on(hub: Hub, data: bytes) -> None:
    """What had come when a download failed is not downloaded again by the next one, which says so."""
    hub.fault = breaking(50_000, 10)
    address = hub.put(NAME, data)
    ran = fetched(f"{address}?token=SECRET")
    assert (ran.code, ran.json()["units"][0]["action"]) == (2, "failed")
    [part] = Path(".modelhub-quarantine").rglob(f"{NAME}.part")
    assert (part.stat().st_size, Path(NAME).exists()) == (500_000, False)
    assert "SECRET" not in "".join(Path(name).read_text(errors="replace") for name in files())
    hub.seen.clear()
    ran = fetched(address)
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "fetched")
    assert "gone on with at 500,000" in ran.err
    assert downloads(hub) == ["bytes=500000-"]
    assert Path(NAME).read_bytes() == data


def test_a_file_that_has_changed_is_begun_again(hub: Hub, data: bytes) -> None:
    """A file that is another one when its download is gone on with is downloaded from its beginning, and that is
    said."""
    hub.fault = breaking(50_000, 10)
    address = hub.put(NAME, data)
    assert fetched(address).code == 2
    other = data[:-1] + bytes([data[-1] ^ 1])
    hub.put(NAME, other)
    hub.fault = breaking(0, 0)
    ran = fetched(address)
    assert ran.code == 0
    assert "it is another file now: begun again" in ran.err
    assert Path(NAME).read_bytes() == other


@pytest.mark.parametrize("tag", ['W/"weak"', None])
def test_a_server_that_does_not_go_on(hub: Hub, data: bytes, tag: str | None) -> None:
    """Where a server ignores the range, or has no name for the file that holds, all of it is downloaded again."""
    hub.fault = breaking(500_000, 2, tag=tag, resumes=False)
    ran = fetched(hub.put(NAME, data))
    assert ran.code == 0
    assert "begun again" in ran.err
    assert Path(NAME).read_bytes() == data


def test_a_hash_that_is_not_the_asked_one(hub: Hub, data: bytes) -> None:
    """The hash is that of the whole file, however many pieces it came in, and what does not have it is not let in."""
    hub.fault = breaking(500_000, 2)
    ran = fetched(hub.put(NAME, data), "--sha256", "0" * 64)
    assert (ran.code, Path(NAME).exists()) == (2, False)
    assert "SHA-256" in ran.json()["units"][0]["error"]


@pytest.mark.parametrize("more", [-7, 7])
def test_a_wrong_length(hub: Hub, data: bytes, tmp_path: Path, more: int) -> None:
    """A file that is shorter or longer than it was when it was judged is not kept."""
    address = hub.put(NAME, data[:more] if more < 0 else data + bytes(more))
    with pytest.raises(SourceError, match=r"bytes that it had|another range"):
        download(address, len(data), str(tmp_path / NAME), print)
    assert not list(tmp_path.glob(f"{NAME}*"))


def test_a_note_that_lies(hub: Hub, data: bytes, tmp_path: Path) -> None:
    """A note that is broken, of another address, or claims more than lies there, does no harm."""
    address = hub.put(NAME, data)
    path = tmp_path / NAME
    tag = f'"{Blob(data).etag}"'.replace('"', '\\"')
    for note in (
        "[]", "{", '{"length": 5}', "[" * 60_000,
        f'{{"address": "https://x/y", "tag": "{tag}", "length": 9}}',
        f'{{"address": "{address}", "tag": "{tag}", "length": -4}}',
        f'{{"address": "{address}", "tag": 7, "length": 4}}',
        f'{{"address": "{address}", "tag": "{tag}", "length": 99999999999}}',
    ):  # fmt: skip
        Path(f"{path}.part").write_bytes(data[:100])
        Path(f"{path}.part.json").write_text(note)
        download(address, len(data), str(path), print)
        assert path.read_bytes() == data
        assert os.listdir(tmp_path).count(f"{NAME}.part") == 0


def test_only_what_has_reached_the_disk_counts(hub: Hub, data: bytes, tmp_path: Path, monkeypatch) -> None:
    """After a power cut, what the note does not vouch for is downloaded again."""
    monkeypatch.setattr(downloading, "_SYNCED", 300_000)
    address = hub.put(NAME, data)
    path = tmp_path / NAME
    hub.fault = breaking(700_000, 1)
    tries: list[int] = []
    real = downloading._Part.add

    def add(self, piece: bytes) -> None:
        real(self, piece)
        if self.length >= 650_000 and not tries:
            tries.append(self._synced)
            raise KeyboardInterrupt

    monkeypatch.setattr(downloading._Part, "add", add)
    monkeypatch.setattr(downloading._Part, "__exit__", lambda self, *_: os.close(self._fd) if self._fd >= 0 else None)
    with pytest.raises(KeyboardInterrupt):
        download(address, len(data), str(path), print)
    assert 300_000 <= tries[0] < 700_000
    with open(f"{path}.part", "r+b") as part:
        part.seek(tries[0])
        part.write(bytes(50_000))  # what a file system may show of blocks that it had not written
    hub.seen.clear()
    download(address, len(data), str(path), print)
    assert downloads(hub) == [f"bytes={tries[0]}-"]
    assert path.read_bytes() == data


def test_a_server_without_ranges(hub: Hub, data: bytes) -> None:
    """What a server sends only whole is judged when it is here, and let in if it is safe."""

    def whole(handler: _Handler, part: str) -> bool:
        del handler.headers["range"]
        blob = handler.hub.loose[handler.path[1:]]
        handler.bytes_of(blob, {"ETag": f'"{blob.etag}"'})
        return True

    hub.fault = whole
    address = hub.put(NAME, data)
    assert modelhub("scan", address).code == 2
    ran = fetched(address)
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "fetched")
    assert Path(NAME).read_bytes() == data
    evil = hub.put("evil.pt", SYSTEM + bytes(1 << 19))
    ran = fetched(evil)
    assert (ran.code, ran.json()["units"][0]["action"], Path("evil.pt").exists()) == (1, "in quarantine", False)


def test_a_server_that_tells_its_files_from_others_by_nothing(hub: Hub, data: bytes) -> None:
    """A download that cannot be gone on with is begun again three times, and leaves nothing behind."""
    hub.fault = breaking(500_000, 99, tag='W/"weak"')
    ran = fetched(hub.put(NAME, data))
    assert (ran.code, ran.json()["units"][0]["action"]) == (2, "failed")
    assert downloads(hub) == ["all"] * 3
    assert files() == []
