"""What huggingface_hub asks by itself keeps to the same rules, and what it cannot make sense of ends in a sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import _http

from modelhub.errors import AccessDenied, SourceError
from modelhub.fetching import plan_fetch
from modelhub.source import egress, hub_session
from modelhub.source.hub import files_of, reference_of
from modelhub.source.network import folder_around, model_folders, what_lies_at
from modelhub.source.resolve import is_model_name, names_one_model
from tests.cli.run import modelhub
from tests.hub.server import Hub, _Handler
from tests.hub.test_fetch import fetched, files, safetensors


@pytest.fixture
def data(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file ``a.safetensors`` of the repository ``org/m``; nobody waits between tries."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    content = safetensors(tmp_path, 1)
    hub.repo("org/m", {"a.safetensors": content})
    return content


def answering(part: str, act: Callable[[_Handler], None], where: Callable[[_Handler], bool] = lambda _: True):
    """A fault that lets *act* answer the requests for *part* that *where* is true of."""

    def fault(handler: _Handler, which: str) -> bool:
        if which != part or not where(handler):
            return False
        act(handler)
        return True

    return fault


@pytest.mark.parametrize(
    ("host", "text"),
    [("http://0.0.0.0:{port}", "not https"), ("https://10.0.0.1", "private"), ("https://a:b@127.0.0.1:{port}", "pass")],
)
def test_where_a_download_is_redirected_to(hub: Hub, data: bytes, host: str, text: str) -> None:
    """A download that is redirected to where no request may go is not made, whoever follows the redirection."""
    sha256 = hashlib.sha256(data).hexdigest()
    there = host.format(port=hub.storage.rpartition(":")[2])

    def redirect(handler: _Handler) -> None:
        size, commit = str(len(data)), hub.repos["org/m"].branches["main"]
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": size, "X-Repo-Commit": commit}
        handler.reply(302, {"ETag": f'"{sha256}"', **linked, "Location": f"{there}/lfs/{sha256}"})

    hub.fault = answering("resolve", redirect, lambda handler: "hf_hub" in handler.headers.get("user-agent", ""))
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"]) == (2, "failed")
    assert text in unit["error"]
    assert not [seen for seen in hub.asked("storage") if "hf_hub" in seen.headers.get("user-agent", "")]
    assert not [name for name in files() if name.startswith("m/")]


def test_a_name_that_leads_to_a_private_address(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connections of huggingface_hub's client are looked at before a word is sent over them."""
    monkeypatch.setattr(egress, "is_loopback", lambda host: False)
    monkeypatch.setattr(hub_session, "check_url", lambda *_: None)
    with pytest.raises(AccessDenied, match=r"private address 127\.0\.0\.1"), hub_session.asking("it"):
        _http.get_session().get(hub.storage.replace("127.0.0.1", "localhost"))
    assert hub.asked("storage") == []


def further(hub: Hub, entries: bytes = b"[]") -> Callable[[_Handler], None]:
    """An answer of *entries* and of a page that follows on another origin."""
    link = {"Content-Type": "application/json", "Link": f'<{hub.storage}/next>; rel="next"'}
    return lambda handler: handler.reply(200, link, entries)


def test_the_token_does_not_follow_the_pages_of_a_listing(
    hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that goes on at another origin is asked for there without the token."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(hub_session, "_MOST_REQUESTS", 3)
    hub.fault = lambda handler, part: not further(hub)(handler) if "/tree/" in handler.path or part == "file" else False
    assert modelhub("scan", "hf://org/m").code == 2
    assert [seen for seen in hub.asked("hub") if hub.token in seen.headers.get("authorization", "")]
    assert hub.asked("storage")
    assert not [seen for seen in hub.asked("storage") if "authorization" in seen.headers]


def test_a_listing_without_an_end(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing whose pages, though empty, do not end is given up."""
    monkeypatch.setattr(hub_session, "_MOST_REQUESTS", 20)
    hub.fault = lambda handler, part: not further(hub)(handler) if "/tree/" in handler.path or part == "file" else False
    ran = modelhub("scan", "hf://org/m")
    assert (ran.code, len(hub.asked("storage"))) == (2, 19)
    assert "no end" in ran.out


def test_a_listing_of_too_many_files(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than any library of models has are not remembered."""
    monkeypatch.setattr("modelhub.source.hub._MOST_FILES", 60)
    hub.repo("org/m", {f"{n}.bin": b"x" for n in range(61)})
    with pytest.raises(SourceError, match="more than 60 files"):
        files_of(reference_of("hf://org/m"))


def test_what_others_ask_is_left_alone(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that uses huggingface_hub beside this library may ask another endpoint, with its own token."""
    other = HfApi(endpoint=hub.url, token="hf_its_own")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.com")
    assert other.model_info("org/m").sha == hub.repos["org/m"].branches["main"]
    assert hub.asked("hub")[-1].headers["authorization"] == "Bearer hf_its_own"


def test_requests_have_an_end(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request of a listing has a time after which it is given up."""
    seen: list[object] = []
    sent = httpx2.HTTPTransport.handle_request

    def handle_request(self: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["timeout"])
        return sent(self, request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", handle_request)
    assert len(files_of(reference_of("hf://org/m"))) == 1
    assert seen
    assert not [each for each in seen if None in each.values()]


def test_a_hub_that_asks_for_an_hour(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that asks to be waited for longer than half a minute is not waited for in the midst of a listing either."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    limit = {"Retry_After": "3600", "RateLimit": '"api";r=0;t=3600'}
    hub.fault = answering("api", lambda handler: handler.error(429, **limit), lambda handler: "/tree/" in handler.path)
    ran = modelhub("scan", "hf://org/m")
    assert (ran.code, pauses) == (2, [])
    assert "fewer requests" in ran.out


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails_before_a_download(hub: Hub, data: bytes, status: int) -> None:
    """A Hub that is down when a download begins is not said to have no such file."""
    hub.fault = answering("resolve", lambda handler: handler.error(status), lambda handler: handler.command == "HEAD")
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"]) == (2, "failed")
    assert f"status {status}" in unit["error"]


ABOUT = [b"<html>login</html>", b"[]", b"{}", b"null", b'{"sha":5}', b'{"id":"x","sha":5}', b"[" * 100_000]
ABOUT += [
    b'{"id":"x","sha":"%s","cardData":[1]}' % (b"a" * 40),
    b'{"id":"x","sha":"%s","tags":5,"siblings":3}' % (b"a" * 40),
]


@pytest.mark.parametrize("command", ["scan", "fetch"])
@pytest.mark.parametrize("body", ABOUT, ids=lambda body: body[:40].decode())
def test_odd_answers_about_a_repository(hub: Hub, data: bytes, body: bytes, command: str) -> None:
    """An answer that says nothing that can be understood is an error of that address; the rest goes on."""
    Path("here.safetensors").write_bytes(data)
    hub.fault = answering("api", lambda handler: handler.reply(200, {"Content-Type": "text/html"}, body))
    beside = ["here.safetensors"] if command == "scan" else []
    ran = modelhub(command, "hf://org/m", *beside)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert "please report" not in ran.out + ran.err
    assert "hf://org/m" in ran.out + ran.err
    assert command == "fetch" or "here.safetensors" in ran.out


FILE = b'{"type":"file","path":"a.safetensors","oid":"1","size":%s}'
TREE = [
    b"<html>",
    b"{}",
    b"[5]",
    b"null",
    b'{"a":1}',
    b'[{"type":"file"}]',
    b'[{"type":"file","path":7,"size":9,"oid":"1"}]',
]
TREE += [b'[{"type":"file","path":["a.pt"],"size":9,"oid":"1"}]']
TREE += [b"[%s]" % (FILE % size) for size in (b'"x"', b"-9", b"true", b"1.5", b"null")]
TREE += [
    b'[{"type":"file","path":"a.pt","size":9,"oid":"1","lfs":{"oid":%s,"size":9,"pointerSize":1}}]' % o
    for o in (b"5", b'"z"')
]
TREE += [b'[{"type":"file","path":"%s","size":9,"oid":"1"}]' % (b"a/" * 50_000)]


@pytest.mark.parametrize("body", TREE, ids=lambda body: body[:70].decode())
def test_odd_listings(hub: Hub, data: bytes, body: bytes) -> None:
    """A listing whose entries are no files is an error of that address; the rest goes on."""
    Path("here.safetensors").write_bytes(data)
    link = {"Content-Type": "application/json"}
    hub.fault = answering(
        "api", lambda handler: handler.reply(200, link, body), lambda handler: "/tree/" in handler.path
    )
    ran = modelhub("scan", "hf://org/m", "here.safetensors")
    if body != b"{}":  # which is an empty listing as well
        assert "not understood" in ran.out
        assert ran.code == 2
    assert "here.safetensors" in ran.out
    assert "please report" not in ran.out + ran.err
    assert modelhub("fetch", "hf://org/m").code == 2


@pytest.mark.parametrize("address", ["https://[x/a", "http://[::1", "https://[x/a?token=SECRET"])
def test_what_is_no_address(hub: Hub, data: bytes, address: str) -> None:
    """What is no address is told as such; the rest goes on."""
    Path("here.safetensors").write_bytes(data)
    ran = modelhub("scan", address, "here.safetensors")
    assert ran.code == 2
    assert "not an address" in ran.out
    assert "here.safetensors" in ran.out
    assert "SECRET" not in ran.out + ran.err
    assert modelhub("fetch", address).code == 2
    assert modelhub("inspect", address).code == 2


@pytest.mark.parametrize("address", ["https://[x", "https://x:abc"])
def test_an_endpoint_that_is_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``HF_ENDPOINT`` that is no address is told as such."""
    monkeypatch.setenv("HF_ENDPOINT", address)
    ran = modelhub("scan", "hf://org/m")
    assert ran.code == 2
    assert "HF_ENDPOINT: not an address" in ran.out


def test_models_among_many_folders(hub: Hub) -> None:
    """Folders that are one model are found at any depth, and not where folders lie in what would be one."""
    one = {"config.json": b"{}", "model.safetensors": b"x"}
    deep = "/".join("abcdefgh")
    there = {f"{folder}/{name}": content for folder in (deep, "p", "q") for name, content in one.items()}
    there |= {"q/below/x.txt": b"x", "p/.hidden/x.txt": b"x", "r/model_index.json": b"{}", "r/unet/model.bin": b"x"}
    hub.repo("org/m", there)
    pinned = f"hf://org/m@{hub.repos['org/m'].branches['main']}"
    lying = list(what_lies_at("hf://org/m", is_model_name, names_one_model))
    assert [each.address for each in lying if each.is_folder] == [f"{pinned}/{each}/" for each in (deep, "p", "r")]
    assert [each.address for each in lying if not each.is_folder] == [f"{pinned}/q/model.safetensors"]


def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is looked at unless the client itself has a proxy make it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "direct.example.com")
    with httpx2.Client() as client:
        proxied, direct = httpx2.URL("https://example.com/"), httpx2.URL("https://direct.example.com/")
        assert egress.watch_for(client, proxied, "it", frozenset()) is None
        assert egress.watch_for(client, direct, "it", frozenset()) is not None
        assert egress.watch_for(client, direct, "it", frozenset({"direct.example.com"})) is None


def test_an_answer_without_an_end(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is taken of what the Hub says than it may have to say, neither of a listing nor of a repository."""
    monkeypatch.setattr("modelhub.source.hub_session.asking.__wrapped__.__defaults__", (1 << 20,))
    sent: list[int] = []

    def endless(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        sent.append(0)
        for _ in range(1 << 14):
            handler.wfile.write(b"[" + b" " * 65_535)
            sent[-1] += 65_536

    for where in ("/tree/", "/revision/"):
        hub.fault = answering("api", endless, lambda handler, where=where: where in handler.path)
        revision = hub.repos["org/m"].branches["main"] if where == "/tree/" else "main"
        ran = modelhub("scan", f"hf://org/m@{revision}")
        assert ran.code == 2
        assert "more than 1,048,576 bytes" in ran.out
    assert max(sent) < 1 << 27


def test_packed_answers(hub: Hub, data: bytes) -> None:
    """Answers are asked for as they are, and one that is packed all the same is not unpacked."""
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    hub.fault = answering("api", lambda handler: handler.reply(200, packed, b"x"))
    ran = modelhub("scan", "hf://org/m")
    assert (ran.code, "packs its answer" in ran.out) == (2, True)
    assert {seen.headers["accept-encoding"] for seen in hub.asked()} == {"identity"}


def test_a_download_longer_than_it_was_said_to_be(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that the storage has more of than the Hub had said no more is taken than was said."""
    monkeypatch.setattr("modelhub.source.hub.LARGEST_ANSWER", 1)

    def longer(handler: _Handler) -> None:
        handler.reply(200, {"ETag": '"x"'}, data + bytes(1 << 20))

    hub.fault = answering("file", longer, lambda handler: "hf_hub" in handler.headers.get("user-agent", ""))
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"]) == (2, "failed")
    assert f"more than {len(data):,} bytes" in unit["error"]
    assert not [name for name in files() if name.startswith("m/")]


def test_many_models_and_files_are_told_apart_quickly() -> None:
    """Which files lie in which folder of one model is told in time proportional to the files, whatever their number."""
    count = 20_000
    paths = [f"m{n:05}/{name}" for n in range(count) for name in ("config.json", "model.safetensors", "notes.txt")]
    models = model_folders(paths, names_one_model)
    assert len(models) == count
    assert all(folder_around(path, models) == path.partition("/")[0] + "/" for path in paths)
    assert folder_around("m00000.safetensors", models) is None
    assert folder_around("m00000x/model.safetensors", models) is None
    assert folder_around("a/b", [""]) == ""
    assert folder_around("a/b", []) is None


def test_a_plan_asks_for_the_listing_once(hub: Hub, tmp_path: Path) -> None:
    """Planning a fetch of a repository with many models lists it once."""
    one = safetensors(tmp_path, 1)
    hub.page_size = 1000
    there = {
        f"{n}/{name}": content
        for n in range(3)
        for name, content in (("config.json", b"{}"), ("model.safetensors", one))
    }
    hub.repo("org/many", {**there, **{f"texts/{n}.txt": b"x" for n in range(2500)}})
    assert len(plan_fetch("hf://org/many", ".").units) == 3
    assert len([seen for seen in hub.asked() if "/tree/" in seen.path]) == 3
