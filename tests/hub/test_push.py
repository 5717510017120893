"""``modelhub push`` through the real client: what is sent, what is not, and what stays as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelhub import pushing
from tests.cli.run import modelhub
from tests.hub.server import Hub
from tests.hub.test_fetch import fetched, hostile, pickled, safetensors

CATALOG = ("--catalog", "../c.db")


@pytest.fixture(autouse=True)
def writing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that may write, and uploads by HTTP."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> bytes:
    """A pickle from the Hub, converted with a receipt and taken in: ``a.safetensors``."""
    hub.repo("org/source", {"a.ckpt": pickled(tmp_path, 1)}, card={"license": "openrail", "base_model": "org/base"})
    assert fetched("hf://org/source", "--to", ".").code == 0
    Path("source/a.safetensors").rename("a.safetensors")
    Path("source/a.ckpt").rename("a.ckpt")
    Path("a.safetensors").unlink()
    assert modelhub("convert", "a.ckpt", "--receipt").code == 0
    assert modelhub("intake", "a.safetensors", *CATALOG).code == 0
    return Path("a.safetensors").read_bytes()


def pushed(*arguments: str) -> tuple[int, Any]:
    ran = modelhub("push", *arguments, *CATALOG, "--format", "json")
    return ran.code, ran.json()["pushes"][0] if ran.out else ran.err


def test_a_repository_is_made(hub: Hub, model: bytes) -> None:
    """The file, its receipt and a card that the Hub can read become one commit of a new, private repository."""
    hub.seen = []
    code, plan = pushed("a.safetensors", "hf://org/m/x/", "--dry-run")
    assert (code, plan["creates"], plan["commit"]) == (0, True, None)
    assert "org/m" not in hub.repos
    code, done = pushed("a.safetensors", "hf://org/m/x/", "--private")
    assert code == 0, done
    repo = hub.repos["org/m"]
    assert repo.private
    files = repo.commits[done["commit"]]
    assert sorted(files) == ["README.md", "x/a.safetensors", "x/a.safetensors.receipt.json"]
    assert files["x/a.safetensors"].data == model
    assert len([seen for seen in hub.seen if "/commit/" in seen.path]) == 1
    text = files["README.md"].data.decode()
    _, front, body = text.split("---\n", 2)
    assert "safetensors" in yaml.safe_load(front)["tags"]
    assert hashlib.sha256(model).hexdigest() in body
    assert "scan | safe" in body
    assert not [seen for seen in hub.asked("storage") if "authorization" in seen.headers]
    code, again = pushed("a.safetensors", "hf://org/m/x/")
    assert (code, again["commit"]) == (0, None)
    assert [each["action"] for each in again["files"]] == ["unchanged", "unchanged"]


def test_what_is_there_stays(hub: Hub, model: bytes) -> None:
    """A model card that is there is not touched; other bytes are replaced only where that is asked for."""
    repo = hub.repo("org/m", {"README.md": b"mine", "a.safetensors": b"other", "b.txt": b"x"})
    before = repo.branches["main"]
    code, said = pushed("a.safetensors", "hf://org/m")
    assert (code, "other bytes" in said) == (2, True)
    assert repo.branches["main"] == before
    code, done = pushed("a.safetensors", "hf://org/m", "--replace", "--pr")
    assert (code, done["request"]) == (0, f"{hub.url}/org/m/discussions/1")
    assert repo.branches["main"] == before
    files = repo.commits[done["commit"]]
    assert (files["README.md"].data, files["a.safetensors"].data, files["b.txt"].data) == (b"mine", model, b"x")


def test_what_is_not_pushed(hub: Hub, tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pickle, nothing that changed since it was recorded, nothing without a token, nothing to another site."""
    hub.repo("org/m", {"b.txt": b"x"})
    Path("evil.ckpt").write_bytes(hostile(tmp_path))
    assert modelhub("intake", "evil.ckpt", *CATALOG).code == 1
    hub.seen = []
    for selector, address, words in (
        ("evil.ckpt", "hf://org/m", "only safetensors files"),
        ("a.safetensors", "hf://org/m/a.ckpt", "not to be called otherwise"),
        ("a.safetensors", "https://example.org/m", "no repository"),
        ("nothing", "hf://org/m", "no record"),
    ):
        code, said = pushed(selector, address)
        assert (code, words in said) == (2, True), said
    Path("a.safetensors").write_bytes(safetensors(tmp_path, 9))
    code, said = pushed("a.safetensors", "hf://org/m")
    assert (code, "not the bytes that the catalog knows" in said) == (2, True)
    monkeypatch.delenv("HF_TOKEN")
    code, said = pushed("a.safetensors", "hf://org/m")
    assert (code, "without a token" in said) == (2, True)
    assert [seen for seen in hub.seen if seen.method != "GET"] == []


@pytest.mark.parametrize("part", ["write", "upload"])
def test_what_the_hub_refuses(hub: Hub, model: bytes, part: str) -> None:
    """Where the Hub or its storage refuses, nothing is committed, the sentence is ours, and the exit code 2."""
    repo = hub.repo("org/m", {"b.txt": b"x"})
    before = repo.branches["main"]
    hub.fault = lambda handler, which: which == part and not handler.error(403)
    code, said = pushed("a.safetensors", "hf://org/m")
    assert (code, "status 403" in said) == (2, True), said
    assert hub.token not in said
    assert repo.branches["main"] == before
    assert list(json.loads(Path("a.safetensors.receipt.json").read_text()))


def test_what_was_not_scanned_is_not_pushed(hub: Hub, tmp_path: Path, model: bytes, monkeypatch) -> None:
    """Bytes that take the place of those that were scanned, while it is pushed, make no commit."""
    repo = hub.repo("org/m", {"b.txt": b"x"})
    before = repo.branches["main"]
    real = pushing.plan_push

    def plan_push(*arguments, **options):
        plan = real(*arguments, **options)
        Path("a.safetensors").write_bytes(safetensors(tmp_path, 9))
        return plan

    monkeypatch.setattr(pushing, "plan_push", plan_push)
    code, said = pushed("a.safetensors", "hf://org/m")
    assert (code, "it changed while it was pushed" in said) == (2, True), said
    assert repo.branches["main"] == before


@pytest.mark.parametrize("kind", ["link", "text", "of others"])
def test_only_the_files_own_receipt_is_pushed(hub: Hub, tmp_path: Path, model: bytes, kind: str) -> None:
    """What has a receipt's name and is none, leads elsewhere, or tells of other bytes, stays here."""
    receipt = Path("a.safetensors.receipt.json")
    told = receipt.read_bytes()
    receipt.unlink()
    if kind == "link":
        (tmp_path / "secret").write_bytes(told)
        receipt.symlink_to(tmp_path / "secret")
    else:
        receipt.write_bytes(
            b"secret" if kind == "text" else told.replace(hashlib.sha256(model).hexdigest().encode(), b"0")
        )
    code, done = pushed("a.safetensors", "hf://org/m")
    assert code == 0
    assert sorted(hub.repos["org/m"].commits[done["commit"]]) == ["README.md", "a.safetensors"]


@pytest.mark.parametrize("path", ["../a.safetensors", "x//a.safetensors", "a\u202e.safetensors"])
def test_paths_that_lead_elsewhere_are_not_pushed(hub: Hub, model: bytes, path: str) -> None:
    """A path that names no file below the repository is told of before anything is asked."""
    hub.seen = []
    code, said = pushed("a.safetensors", f"hf://org/m/{path}")
    assert (code, "the name of the file" in said) == (2, True), said
    assert hub.seen == []


def test_a_card_with_any_letters(hub: Hub, model: bytes) -> None:
    """Tags of all scripts and with signs of YAML's are in the card's metadata what they are in the catalog."""
    tags = ["🌊 sea", "海", 'a"b\\c', "x: [y]", "a\u0085b"]
    for tag in tags:
        assert modelhub("tag", "a.safetensors", tag, *CATALOG).code == 0
    code, done = pushed("a.safetensors", "hf://org/m")
    assert code == 0
    _, front, _ = hub.repos["org/m"].commits[done["commit"]]["README.md"].data.decode().split("---\n", 2)
    kept = modelhub("show", "a.safetensors", *CATALOG, "--format", "json").json()["records"][0]["entry"]["tags"]
    assert set(kept) <= set(yaml.safe_load(front)["tags"])
    assert {"🌊 sea", "海"} <= set(kept)
