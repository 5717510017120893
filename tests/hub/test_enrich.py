"""``modelhub enrich`` through a server on this machine that answers as Civitai's API does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelhub.errors import AccessDenied
from modelhub.source.web import Web
from tests.cli.run import modelhub
from tests.hub.server import Hub
from tests.sidefiles.build import PNG
from tests.syncing.files import lora, put

MODEL = Path("m/harbour.safetensors")


@pytest.fixture
def sha256(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """A LoRA in the catalog, and a service that is named."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    monkeypatch.setenv("MODELHUB_ENRICH_ENDPOINT", hub.storage)
    put(MODEL, lora(1))
    assert modelhub("intake", "m").code == 0
    return hashlib.sha256(MODEL.read_bytes()).hexdigest()


def answer(hub: Hub, sha256: str, **other: Any) -> None:
    version = {
        "id": 7,
        "modelId": 3,
        "name": "v2",
        "baseModel": "SDXL 1.0",
        "trainedWords": ["harbour at dusk"],
        "model": {"name": "Harbour", "type": "LORA", "nsfw": False},
        "files": [{"name": "x.safetensors", "hashes": {"SHA256": sha256.upper(), "AutoV2": "0123456789"}}],
        "images": [{"url": hub.put("picture.png", PNG)}, {"url": "file:///etc/passwd"}, 5],
    }
    model = {
        "id": 3,
        "name": "Harbour",
        "tags": ["ships"],
        "creator": {"username": "someone"},
        "allowNoCredit": True,
        "modelVersions": [{"id": 8, "name": "v3", "baseModel": "SDXL 1.0"}, {"id": 7, "name": "v2"}],
    }
    hub.put(f"api/v1/model-versions/by-hash/{sha256}", json.dumps({**version, **other}).encode())
    hub.put("api/v1/models/3", json.dumps(model).encode())


def shown() -> Any:
    return modelhub("show", "harbour", "--format", "json").json()["records"][0]


def test_what_is_told(hub: Hub, sha256: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base model, trigger words and versions are claims with origin and day, found, shown, and compared with the bytes;
    the token is sent to the endpoint alone."""
    answer(hub, sha256)
    monkeypatch.setenv("MODELHUB_ENRICH_TOKEN", "SECRET")
    hub.seen = []
    ran = modelhub("enrich", "--format", "json")
    assert (ran.code, ran.json()["records"][0]["state"]) == (0, "told")
    assert [seen.headers.get("authorization") for seen in hub.seen] == ["Bearer SECRET"] * 2
    record = shown()
    [claim] = [each for each in record["claims"] if each["origin"] == "civitai"]
    assert claim["facts"]["base_model"] == "SDXL 1.0"
    assert claim["facts"]["tags"] == ["ships"]
    assert claim["facts"]["creator"] == "someone"
    assert [each["name"] for each in claim["extra"]["versions"]] == ["v3", "v2"]
    assert claim["extra"]["previews"] == [f"{hub.storage}/picture.png"]
    assert claim["read"]
    assert record["entry"]["triggers"] == ["harbour at dusk"]
    assert record["entry"]["architecture"] == "sd-1"
    assert any("SDXL 1.0 (sdxl), but it is sd-1" in each for each in record["disagreements"])
    assert any("autov2 0123456789" in each for each in record["disagreements"])
    assert "versions" in modelhub("show", "harbour").out
    assert modelhub("search", "ships", "--format", "jsonl").json_lines()
    assert not Path("m/harbour.preview.png").exists()
    assert b"SECRET" not in Path("c.db").read_bytes()


def test_previews(hub: Hub, sha256: str) -> None:
    """A picture is written beside a model that has none, and replaces nothing; what is no picture is told."""
    answer(hub, sha256)
    assert modelhub("enrich", "--previews").code == 0
    assert Path("m/harbour.preview.png").read_bytes() == PNG
    hub.put("picture.png", b"<html>")
    assert modelhub("enrich", "--previews").code == 0
    Path("m/harbour.preview.png").unlink()
    ran = modelhub("enrich", "--previews")
    assert (ran.code, "is no picture" in ran.err) == (2, True)
    assert sorted(path.name for path in Path("m").iterdir()) == ["harbour.safetensors"]


def test_what_is_not_told(hub: Hub, sha256: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that the service does not know are no error; busy, broken or hostile answers are, and nothing is kept."""
    assert modelhub("enrich", "--format", "json").json()["records"][0]["state"] == "unknown"
    for fault, words in (
        (lambda handler, _: not handler.error(429, Retry_After="3600"), "fewer requests"),
        (lambda handler, _: not handler.reply(200, {}, b"<html>"), "not JSON"),
        (lambda handler, _: not handler.reply(200, {}, b"[1]"), "no JSON object"),
        (lambda handler, _: not handler.reply(200, {}, b" " * (8 << 20) + b"{}"), "more than 8 MiB"),
        (lambda handler, _: not handler.reply(302, {"Location": "http://10.0.0.1/"}), "not https"),
    ):
        hub.fault = fault
        ran = modelhub("enrich")
        assert (ran.code, words in ran.err) == (2, True), ran.err
    assert [claim["origin"] for claim in shown()["claims"]] == ["metadata"]
    hub.fault = None
    monkeypatch.setenv("MODELHUB_ENRICH_TOKEN", "SECRET")
    monkeypatch.setenv("MODELHUB_ENRICH_ENDPOINT", "https://x:abc")
    ran = modelhub("enrich")
    assert (ran.code, "https://x:abc: not an address" in ran.err) == (2, True)
    monkeypatch.delenv("MODELHUB_ENRICH_ENDPOINT")
    hub.seen = []
    ran = modelhub("enrich")
    assert (ran.code, "unless you name one" in ran.err, hub.seen) == (2, True, [])
    Path("modelhub.toml").write_text(f'enrich_endpoint = "{hub.storage}"\n')
    assert modelhub("enrich").code == 2
    assert hub.seen == []


def test_a_service_does_not_lead_to_this_machine(hub: Hub, sha256: str) -> None:
    """A picture that a service elsewhere says to be on this machine is not asked for, as no redirection is followed."""
    hub.seen = []
    web = Web()
    with (
        pytest.raises(AccessDenied, match="this machine itself"),
        web.get(f"{hub.storage}/stop", {}, "picture", told_by="https://service.example"),
    ):
        pass
    web.close()
    assert hub.seen == []
    asked: list[str | None] = []
    real = Web.get

    def get(self, url, headers, name, *, told_by=None):
        asked.append(told_by)
        return real(self, url, headers, name, told_by=told_by)

    answer(hub, sha256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Web, "get", get)
        assert modelhub("enrich", "--previews").code == 0
    assert asked == [None, None, hub.storage]
