"""What servers do wrong, by accident or on purpose: each ends in a sentence, and nothing of it is believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub import verbs
from modelhub.errors import AccessDenied, ChangedDuringRead, NotFound, SourceError
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.source import egress, web
from modelhub.source.remote import RemoteSource
from modelhub.source.web import Web
from modelhub.tensors import DType
from tests.cli.run import modelhub
from tests.hub.server import Hub, _Handler

LAYOUT = {f"block.{n}.weight": (DType.F32, (64, 512)) for n in range(24)}
ADDRESS = "hf://org/m/a.pt"


@pytest.fixture
def checkpoint(hub: Hub, tmp_path: Path) -> bytes:
    """The checkpoint of 3 MB that is ``a.pt`` of the repository ``org/m``."""
    write_torch_zip(str(tmp_path / "a.pt"), random_weights(LAYOUT, seed=6))
    data = (tmp_path / "a.pt").read_bytes()
    hub.repo("org/m", {"a.pt": data})
    return data


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not made."""
    pauses: list[float] = []
    monkeypatch.setattr(web.time, "sleep", pauses.append)
    return pauses


def first(count: int, part: str, act: Callable[[_Handler], None]) -> Callable[[_Handler, str], bool]:
    """A fault that lets *act* answer the first *count* requests for *part*."""
    left = [count]

    def fault(handler: _Handler, which: str) -> bool:
        if which != part or left[0] == 0:
            return False
        left[0] -= 1
        act(handler)
        return True

    return fault


def sent_of(handler: _Handler, data: bytes, *, cut: int | None = None, tag: str = "tag") -> None:
    from tests.hub.server import Blob

    handler.bytes_of(Blob(data), {"ETag": f'"{tag}"'}, cut=cut)


def test_private_repositories(hub: Hub, monkeypatch: pytest.MonkeyPatch, checkpoint: bytes) -> None:
    """A private repository is there for who has a token, which goes to the Hub and to nobody else."""
    hub.repos["org/m"].private = True
    ran = modelhub("scan", ADDRESS)
    assert ran.code == 2
    assert "no such repository, or a private one" in ran.out
    monkeypatch.setenv("HF_TOKEN", hub.token)
    ran = modelhub("scan", ADDRESS, "-vv")
    assert ran.code == 0
    assert hub.token not in ran.out + ran.err
    bearers = {seen.server for seen in hub.asked() if hub.token in seen.headers.get("authorization", "")}
    assert bearers == {"hub"}
    assert [seen for seen in hub.asked("storage") if "authorization" not in seen.headers]


def test_gated_repositories(hub: Hub, checkpoint: bytes) -> None:
    """Of a gated repository it is said that its owner grants access."""
    hub.repos["org/m"].gated = True
    with pytest.raises(AccessDenied, match="gated") as caught:
        verbs.scan(ADDRESS)
    assert "HF_TOKEN" in caught.value.hint


def test_a_busy_server_is_asked_again(hub: Hub, checkpoint: bytes, impatient: list[float]) -> None:
    """429 is waited for as long as the server says, and 503 asked again."""
    hub.fault = first(1, "file", lambda handler: handler.error(429, Retry_After="7"))
    assert verbs.scan(ADDRESS).verdict.label == "safe"
    assert impatient == [7.0]
    hub.fault = first(1, "resolve", lambda handler: handler.error(503))
    assert verbs.scan(ADDRESS).verdict.label == "safe"


@pytest.mark.parametrize("wait", ["Mon, 01 Jan 2020 00:00:00 +99999999999999999999999", "soon", "-1", "9" * 5000])
def test_odd_times_to_wait(hub: Hub, checkpoint: bytes, wait: str) -> None:
    """A time to wait that is none, or not of this world, ends in a sentence."""
    hub.fault = first(99, "file", lambda handler: handler.error(503, Retry_After=wait))
    with pytest.raises(SourceError, match="status 503"):
        verbs.scan(ADDRESS)


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (429, SourceError, "fewer requests"),
        (500, SourceError, "status 500"),
        (404, NotFound, "no such file"),
        (403, AccessDenied, "status 403"),
    ],
)
@pytest.mark.parametrize("part", ["resolve", "file"])
def test_refusals(hub: Hub, checkpoint: bytes, status: int, kind: type, text: str, part: str) -> None:
    """Each refusal has its error, and a server that asks for an hour is not waited for."""
    hub.fault = first(9, part, lambda handler: handler.error(status, Retry_After="3600"))
    with pytest.raises(kind, match=text):
        verbs.scan(ADDRESS)
    assert modelhub("scan", ADDRESS).code == 2


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_refusals_of_the_api(hub: Hub, checkpoint: bytes, status: int) -> None:
    """What the Hub refuses to say of a repository is told as such."""
    hub.fault = first(9, "api", lambda handler: handler.error(status, Retry_After="3600"))
    ran = modelhub("scan", ADDRESS)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert "hf://org/m" in ran.out


def test_a_body_that_is_cut_is_gone_on_with(hub: Hub, checkpoint: bytes) -> None:
    """When the connection breaks, only the rest of the range is asked for again."""
    hub.fault = first(2, "file", lambda handler: sent_of(handler, checkpoint, cut=1000, tag=hub_tag(hub)))
    assert verbs.scan(ADDRESS).verdict.label == "safe"
    assert [seen.headers["range"] for seen in hub.asked("storage")[:3]] == [
        "bytes=0-65535",
        "bytes=1000-65535",
        "bytes=2000-65535",
    ]


def test_a_server_that_always_breaks_off(hub: Hub, checkpoint: bytes) -> None:
    """A server that never sends anything is given up."""
    hub.fault = first(99, "file", lambda handler: sent_of(handler, checkpoint, cut=0))
    with pytest.raises(SourceError, match=r"cut|failed|reached"):
        verbs.scan(ADDRESS)


@pytest.mark.parametrize("what", ["tag", "size"])
def test_a_file_that_changes_between_two_ranges(hub: Hub, checkpoint: bytes, what: str) -> None:
    """Another ETag, or another length, than on the first request is an error: two halves are not one file."""
    other = checkpoint if what == "tag" else checkpoint + b"more"
    tag = "another" if what == "tag" else hub_tag(hub)

    def fault(handler: _Handler, part: str) -> bool:
        if part != "file" or len(hub.asked("storage")) == 1:
            return False
        sent_of(handler, other, tag=tag)
        return True

    hub.fault = fault
    with pytest.raises(ChangedDuringRead):
        verbs.scan(ADDRESS)
    hub.seen.clear()
    assert modelhub("scan", ADDRESS).code == 2


def test_a_server_that_ignores_ranges(hub: Hub, checkpoint: bytes) -> None:
    """A server that sends the whole file for a range is told of; with ``--deep`` the file is read whole."""

    def whole(handler: _Handler) -> None:
        del handler.headers["range"]
        sent_of(handler, checkpoint)

    hub.fault = first(99, "file", whole)
    with pytest.raises(SourceError, match="ignores ranges") as caught:
        verbs.scan(ADDRESS)
    assert "--deep" in caught.value.hint
    assert len(hub.asked("storage")) == 1
    assert verbs.scan(ADDRESS, deep=True).verdict.label == "safe"
    assert len(hub.asked("storage")) == 2


def test_a_server_that_stops_honouring_ranges(hub: Hub, tmp_path: Path) -> None:
    """When a later request is answered with the whole file, that is what is read on from."""
    data = b"".join(n.to_bytes(4, "little") for n in range(3 << 20))
    address = hub.put("big", data)
    asked = []

    def fault(handler: _Handler, part: str) -> bool:
        if handler.headers.get("range", "").startswith("bytes=0-"):
            asked.append(part)
        if len(asked) < 2:
            return False
        del handler.headers["range"]
        handler.bytes_of(hub.loose["big"], {"ETag": f'"{hub.loose["big"].etag}"'})
        return True

    hub.fault = fault
    with _closing(Web()) as client, RemoteSource(address, "it", client, whole=True) as source:
        for offset in range(0, len(data), 1 << 20):  # more than is kept, so that the first block is asked for again
            assert source.read_at(offset, 1 << 20) == data[offset : offset + (1 << 20)]
        assert source.read_at(0, 200_000) == data[:200_000]
        assert source.read_at(5 << 20, 100) == data[5 << 20 :][:100]


def test_a_small_file_of_a_server_that_ignores_ranges(hub: Hub) -> None:
    """A small file is what it is, with ranges or without."""
    hub.repo("org/t", {"t.bin": b"\x80\x02}." + bytes(20_000)})

    def whole(handler: _Handler) -> None:
        del handler.headers["range"]
        sent_of(handler, b"\x80\x02}.")

    hub.fault = first(99, "file", whole)
    assert verbs.scan("hf://org/t/t.bin").verdict.label == "safe"


def test_packed_bodies_are_refused(hub: Hub, checkpoint: bytes) -> None:
    """A body that is compressed on the way is not unpacked."""
    hub.fault = first(
        9,
        "file",
        lambda handler: handler.reply(206, {"Content-Encoding": "gzip", "Content-Range": "bytes 0-9/10"}, bytes(10)),
    )
    with pytest.raises(SourceError, match="packs"):
        verbs.scan(ADDRESS)
    assert hub.asked("storage")[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("said", ["bytes 5-9/10", "bytes 0-9/nonsense", "lines 0-9/10", ""])
def test_ranges_that_were_not_asked_for(hub: Hub, checkpoint: bytes, said: str) -> None:
    """An answer about other bytes than those asked for is not taken for them."""
    hub.fault = first(9, "file", lambda handler: handler.reply(206, {"Content-Range": said}, bytes(10)))
    with pytest.raises(SourceError):
        verbs.scan(ADDRESS)


def test_slow_drips(hub: Hub, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps a request open by a few bytes now and then is given up."""
    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr(web.time, "monotonic", lambda: next(clock))
    with pytest.raises(SourceError, match="too slowly"):
        list(web.read_body(_Dripping(), 1 << 20, "it"))


class _Dripping:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def iter_raw(self):
        while True:
            yield b"x"


def test_an_address_that_has_expired(hub: Hub, checkpoint: bytes) -> None:
    """Where a download is redirected to may expire; then the Hub is asked for it again."""
    asked = []

    def fault(handler: _Handler, part: str) -> bool:
        asked.append(part)
        if part == "file" and asked.count("file") == 2:
            handler.error(403)
            return True
        return False

    hub.fault = fault
    assert verbs.scan(ADDRESS).verdict.label == "safe"
    assert asked.count("resolve") == 2


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("http://example.com/x", "not https"),
        ("https://10.1.2.3/x", "private address"),
        ("https://169.254.169.254/latest/meta-data", "private address"),
        ("https://[::ffff:192.168.0.1]/x", "private address"),
        ("https://[64:ff9b::a00:1]/x", "private address"),
        ("https://user:secret@example.com/x", "password"),
        ("file:///etc/passwd", "not https"),
    ],
)
def test_redirections_that_lead_where_none_may(hub: Hub, checkpoint: bytes, target: str, text: str) -> None:
    """Each hop is judged: https alone, no private address, no password; the file's bytes are not asked for there."""
    hub.fault = first(9, "resolve", lambda handler: handler.reply(302, {"Location": target}))
    with pytest.raises(SourceError, match=text) as caught:
        verbs.scan(ADDRESS)
    assert "secret" not in str(caught.value)


def test_endless_redirections(hub: Hub, checkpoint: bytes) -> None:
    """Redirections in a circle end."""
    hub.fault = lambda handler, part: part == "resolve" and not handler.reply(302, {"Location": handler.path})
    with pytest.raises(SourceError, match="redirected more than"):
        verbs.scan(ADDRESS)


def test_names_of_private_addresses(hub: Hub, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public name that leads to a private address is refused when the connection stands, before a word is sent."""
    address = hub.put("a.pt", checkpoint)
    monkeypatch.setattr(egress, "is_loopback", lambda host: False)
    monkeypatch.setattr(web, "check_url", lambda *_: None)
    with pytest.raises(AccessDenied, match=r"private address 127\.0\.0\.1"), _closing(Web()) as client:
        client.get(address, {}, "it").__enter__()
    assert hub.asked("storage") == []


def test_a_page_may_not_lead_to_this_machine() -> None:
    """From elsewhere, nothing leads to this machine itself."""
    away, here = web.httpx2.URL("https://example.com/"), web.httpx2.URL("http://127.0.0.1/x")
    with pytest.raises(AccessDenied, match="this machine itself"):
        egress.check_url(here, away, "it", frozenset())
    egress.check_url(here, None, "it", frozenset())


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::",
        "fe80::1",
        "fc00::1",
        "2002:a00:1::",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "::8.8.8.8",
        "fec0::1",
        "64:ff9b:1::808:808",
    ],
)
def test_private_addresses(host: str) -> None:
    """Addresses of private networks, of links, of carriers and of groups are not connected to, in any spelling."""
    assert ipaddress.ip_address(host)
    assert not egress.may_connect(host, local=False)
    assert not egress.may_connect(host, local=True)
    assert egress.may_connect("8.8.8.8", local=False)
    assert egress.may_connect("2606:4700::1111", local=False)


def test_credentials_are_not_shown() -> None:
    """A token stands in no representation of what holds it."""
    assert "hf_secret" not in repr(web.Credentials("https://huggingface.co:443", "Bearer hf_secret"))


def test_another_host_as_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that is neither https nor this machine is refused: a token would go there in the clear."""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.com")
    ran = modelhub("scan", ADDRESS)
    assert ran.code == 2
    assert "not https" in ran.out


def hub_tag(hub: Hub) -> str:
    [files] = hub.repos["org/m"].commits.values()
    return files["a.pt"].etag


class _closing:
    def __init__(self, client: Web) -> None:
        self.client = client

    def __enter__(self) -> Web:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
