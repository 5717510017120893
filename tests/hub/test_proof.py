"""Every way in which a server fails, through every command: nothing is half let in, a sentence says why, and it ends
with 2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub.source import web
from tests.cli.run import modelhub
from tests.hub.server import Blob, Hub, _Handler
from tests.hub.test_fetch import files, pickled, safetensors

Act = Callable[[_Handler, bytes], None]


@pytest.fixture
def data(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file ``a.ckpt`` of ``org/m``; nobody waits between tries, and a server is slow within the second."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(web, "_GRACE", 0.3)
    content = pickled(tmp_path, 1)
    hub.repo("org/m", {"a.ckpt": content})
    return content


def refuse(status: int, code: str = "", **headers: str) -> Act:
    return lambda handler, _: handler.error(status, code, **headers)


def cut(handler: _Handler, data: bytes) -> None:
    handler.bytes_of(Blob(data), {"ETag": f'"{Blob(data).etag}"'}, cut=10)


def shorter(handler: _Handler, data: bytes) -> None:
    handler.bytes_of(Blob(data[:-1000]), {"ETag": f'"{Blob(data).etag}"'})


def longer(handler: _Handler, data: bytes) -> None:
    handler.bytes_of(Blob(data + bytes(1000)), {"ETag": f'"{Blob(data).etag}"'})


def other_tag(handler: _Handler, data: bytes) -> None:
    handler.bytes_of(Blob(data), {"ETag": f'"{len(handler.hub.seen)}"'})


def other_bytes(handler: _Handler, data: bytes) -> None:
    handler.bytes_of(Blob(bytes(len(data))), {"ETag": f'"{Blob(data).etag}"'})


def no_ranges(handler: _Handler, data: bytes) -> None:
    del handler.headers["range"]
    big = Blob(data + bytes(1 << 19))
    handler.bytes_of(big, {"ETag": f'"{big.etag}"'})


def elsewhere(handler: _Handler, _: bytes) -> None:
    handler.reply(302, {"Location": "https://10.0.0.1/a.ckpt"})


def hang_up(handler: _Handler, _: bytes) -> None:
    handler.hang_up()


def drip(handler: _Handler, data: bytes) -> None:
    handler.send_response(206 if "range" in handler.headers else 200)
    handler.send_header("Content-Length", str(len(data)))
    handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
    handler.end_headers()
    for _ in range(50):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        wait(0.05)


def wait(seconds: float) -> None:
    """A pause that no fixture takes away."""
    import threading

    threading.Event().wait(seconds)


def nonsense(handler: _Handler, _: bytes) -> None:
    handler.connection.sendall(b"\x00\x01 not HTTP at all\r\n\r\n")
    handler.hang_up()


FAULTS: dict[str, tuple[str, Act]] = {
    **{f"{part} {status}": (part, refuse(status)) for part in ("api", "resolve", "file") for status in (401, 403, 404)},
    **{f"{part} {status}": (part, refuse(status)) for part in ("api", "resolve", "file") for status in (500, 502, 503)},
    **{f"{part} 429": (part, refuse(429, Retry_After="3600")) for part in ("api", "resolve", "file")},
    "gated": ("resolve", refuse(403, "GatedRepo")),
    "private": ("api", refuse(401, "RepoNotFound")),
    "cut": ("file", cut),
    "shorter": ("file", shorter),
    "longer": ("file", longer),
    "other tag": ("file", other_tag),
    "other bytes": ("file", other_bytes),
    "no ranges": ("file", no_ranges),
    "redirected": ("file", elsewhere),
    "api hangs up": ("api", hang_up),
    "file hangs up": ("file", hang_up),
    "api drips": ("api", drip),
    "file drips": ("file", drip),
    "nonsense": ("file", nonsense),
}


def breaking(hub: Hub, data: bytes, fault: str, who: str = "") -> None:
    """Have the servers of *hub* fail in the way *fault*, for requests of the client *who*."""
    part, act = FAULTS[fault]

    def answer(handler: _Handler, which: str) -> bool:
        if which != part or who not in handler.headers.get("user-agent", ""):
            return False
        act(handler, data)
        return True

    hub.fault = answer


NO_FAULTS = {("longer", "inspect"), ("other tag", "fetch")}
"""What is longer is another file, which can be told; what is downloaded has the claimed SHA-256 or not."""

CASES = [(fault, command) for fault in FAULTS for command in ("scan", "inspect", "fetch")]


@pytest.mark.parametrize(("fault", "command"), [case for case in CASES if case not in NO_FAULTS])
def test_every_fault(hub: Hub, data: bytes, fault: str, command: str) -> None:
    """A fault of the server's from the first request on is told in a sentence by each command; nothing is written."""
    breaking(hub, data, fault)
    ran = modelhub(command, "hf://org/m/a.ckpt", *(["--catalog", "../c.db"] if command == "fetch" else []))
    said = ran.out + ran.err
    assert ran.code == 2, said
    assert "Traceback" not in said
    assert "please report" not in said
    assert "hf://org/m" in said
    assert [name for name in files() if not name.startswith(".modelhub-quarantine/")] == []


DOWNLOADS = [
    name for name, (part, _) in FAULTS.items() if part in ("resolve", "file") and name not in ("no ranges", "other tag")
]


@pytest.mark.parametrize("fault", DOWNLOADS)
def test_every_fault_of_a_download(hub: Hub, data: bytes, fault: str) -> None:
    """A fault after the verdict, in the midst of the download, lets nothing in: the next fetch brings it, whole."""
    breaking(hub, data, fault, "hf_hub")
    ran = modelhub("fetch", "hf://org/m", "--catalog", "../c.db", "--format", "json")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"]) == (2, "failed"), unit
    assert unit["error"]
    assert "please report" not in unit["error"]
    assert [name for name in files() if not name.startswith(".modelhub-quarantine/")] == []
    hub.fault = None
    ran = modelhub("fetch", "hf://org/m", "--catalog", "../c.db", "--format", "json")
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "fetched"), ran.out
    assert Path("m/a.ckpt").read_bytes() == data
    assert not os.path.exists(".modelhub-quarantine")


def test_gated_and_private_with_a_token(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may read a gated or a private repository judges and fetches it, and its token is nowhere to be found."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    repo = hub.repos["org/m"]
    repo.private = repo.gated = True
    ran = modelhub("fetch", "hf://org/m", "--catalog", "../c.db", "-vv")
    assert ran.code == 0
    assert Path("m/a.ckpt").read_bytes() == data
    assert hub.token not in ran.out + ran.err
    assert not [name for name in (*files(), "../c.db") if hub.token.encode() in Path(name).read_bytes()]
    assert {seen.server for seen in hub.asked() if hub.token in seen.headers.get("authorization", "")} == {"hub"}


def test_fetching_from_ten_thousand_files(hub: Hub, tmp_path: Path) -> None:
    """Of a repository of 10,000 files the one model is fetched, with a request for each page of the listing."""
    hub.page_size = 1000
    model = safetensors(tmp_path, 1)
    hub.repo("org/huge", {**{f"data/{n}.txt": b"x" for n in range(10_000)}, "m.safetensors": model})
    ran = modelhub("fetch", "hf://org/huge", "--catalog", "../c.db", "--format", "json")
    assert (ran.code, len(ran.json()["units"])) == (0, 1)
    assert len([seen for seen in hub.asked() if "/tree/" in seen.path]) == 11
    assert len(hub.asked()) < 30
