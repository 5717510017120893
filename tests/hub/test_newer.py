"""What has been changed on the Hub since it was fetched: told by ``outdated``, fetched by ``update``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from modelhub.fetching import recording
from tests.cli.run import modelhub
from tests.hub.server import Hub
from tests.hub.test_fetch import fetched, files, hostile, pickled, pipeline, safetensors
from tests.hub.test_origin import shown

CATALOG = ("--catalog", "../c.db")


def outdated(*arguments: str, code: int) -> list[Any]:
    ran = modelhub("outdated", *arguments, *CATALOG, "--format", "jsonl")
    assert ran.code == code, ran.err
    return ran.json_lines()


def states(*arguments: str, code: int) -> dict[str, str]:
    return {each["name"]: each["state"] for each in outdated(*arguments, code=code)}


def updated(*arguments: str) -> tuple[int, Any]:
    ran = modelhub("update", *arguments, *CATALOG, "--format", "json")
    return ran.code, ran.json()["records"][0]


def test_what_is_newer(hub: Hub, tmp_path: Path) -> None:
    """A repository is asked once for its commit, and once for its files if that has changed; only other bytes count."""
    data = {name: safetensors(tmp_path, n) for n, name in enumerate(("a.safetensors", "b.safetensors"))}
    repo = hub.repo("org/m", data)
    hub.repo("org/pin", {"c.safetensors": safetensors(tmp_path, 7)})
    assert fetched("hf://org/m").code == 0
    assert fetched(f"hf://org/pin@{hub.repos['org/pin'].branches['main']}").code == 0
    assert fetched(hub.put("d.safetensors", safetensors(tmp_path, 8))).code == 0
    before = files()
    hub.seen = []
    assert states(code=0) == {"a": "current", "b": "current", "c": "pinned", "d": "elsewhere"}
    assert len(hub.seen) == 1
    commit = repo.commit({**data, "b.safetensors": safetensors(tmp_path, 9), "README.md": b"x"})
    hub.repos["org/pin"].commit({"c.safetensors": safetensors(tmp_path, 10)})
    hub.seen = []
    rows = {row["name"]: row for row in outdated(code=1)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a": "current",
        "b": "outdated",
        "c": "pinned",
        "d": "elsewhere",
    }
    assert rows["b"]["address"] == f"hf://org/m@{commit}/b.safetensors"
    assert rows["b"]["changed"] == ["b.safetensors"]
    assert len(hub.seen) == 2
    assert states("a", code=0) == {"a": "current"}
    assert "outdated" in modelhub("outdated", "b", *CATALOG).out
    del hub.repos["org/m"]
    assert states("b", code=0) == {"b": "gone"}
    assert files() == before


def test_what_cannot_be_asked(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that gives no answer is one that failed, beside the others; offline, nothing is asked at all."""
    for name in ("m", "n"):
        hub.repo(f"org/{name}", {f"{name}.safetensors": safetensors(tmp_path, 1 + ord(name))})
        assert fetched(f"hf://org/{name}").code == 0
    hub.fault = lambda handler, part: "org/m" in handler.path and not handler.error(403)
    assert states(code=2) == {"m": "failed", "n": "current"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.seen = []
    for command in ("outdated", "update"):
        ran = modelhub(command, "m", *CATALOG)
        assert (ran.code, "HF_HUB_OFFLINE is set" in ran.err) == (2, True)
    assert hub.seen == []
    assert modelhub("outdated", "nothing", *CATALOG).code == 2


def test_an_update(hub: Hub, tmp_path: Path) -> None:
    """The newer file takes the old one's place; tags, notes, rating and collections hold for it; the step is kept."""
    repo = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)}, card={"license": "mit"})
    assert fetched("hf://org/m").code == 0
    old = shown("a")["entry"]
    modelhub("tag", "a", "mine", *CATALOG)
    modelhub("note", "a", "my words", *CATALOG)
    modelhub("rate", "a", "5", *CATALOG)
    modelhub("collection", "create", "Best", *CATALOG)
    modelhub("collection", "add", "Best", "a", *CATALOG)
    newer = safetensors(tmp_path, 2)
    commit = repo.commit({"a.safetensors": newer, "x": b"x"})
    assert updated("a", "--dry-run")[1]["state"] == "outdated"
    code, row = updated("a")
    assert (code, row["action"], row["error"]) == (0, "fetched", None)
    assert Path("m/a.safetensors").read_bytes() == newer
    record = shown("m/a.safetensors")
    assert record["entry"]["id"] == row["records"][0] != old["id"]
    assert (record["entry"]["tags"], record["entry"]["rating"], record["notes"]) == (["mine"], 5, "my words")
    assert record["collections"] == ["Best"]
    assert record["downloads"][0]["address"] == f"hf://org/m@{commit}/a.safetensors"
    [step] = record["parents"]
    assert (step["kind"], step["digest"], step["role"]) == ("update", old["digest"], "previous")
    assert [each["id"] for each in record["versions"]] == [old["id"]]
    assert shown(f"#{old['id']}")["entry"]["state"] == "gone"
    assert commit in Path("m/a.safetensors.origin.json").read_text()
    assert files() == ["m/a.safetensors", "m/a.safetensors.origin.json"]
    assert states(code=0) == {"a": "current"}
    assert updated("a")[1]["state"] == "current"


def test_an_update_that_is_not_let_in(hub: Hub, tmp_path: Path) -> None:
    """Where the newer file is unsafe, or its download fails, the old one stays as it was, in the catalog as well."""
    data = pickled(tmp_path, 1)
    repo = hub.repo("org/m", {"a.ckpt": data})
    assert fetched("hf://org/m").code == 0
    repo.commit({"a.ckpt": hostile(tmp_path), "x": b"x"})
    code, row = updated("m/a.ckpt")
    assert (code, row["action"]) == (1, "refused")
    repo.commit({"a.ckpt": pickled(tmp_path, 2), "x": b"x", "y": b"y"})
    hub.fault = lambda handler, part: part == "file" and "range" not in handler.headers and not handler.error(403)
    code, row = updated("m/a.ckpt")
    assert (code, row["action"]) == (2, "failed")
    assert Path("m/a.ckpt").read_bytes() == data
    assert shown("m/a.ckpt")["entry"]["state"] == "live"
    hub.fault = None
    code, row = updated("m/a.safetensors")  # what was converted from it stands for it
    assert (code, row["action"]) == (0, "fetched")
    assert shown("m/a.ckpt")["parents"][0]["kind"] == "update"


def test_a_file_that_the_user_has_changed(hub: Hub, tmp_path: Path) -> None:
    """A file that is not what was recorded is not replaced, and nothing is downloaded."""
    repo = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    assert fetched("hf://org/m").code == 0
    Path("m/a.safetensors").write_bytes(b"mine")
    repo.commit({"a.safetensors": safetensors(tmp_path, 2), "x": b"x"})
    code, row = updated("a")
    assert (code, row["action"]) == (2, "failed")
    assert "changed since it was recorded" in row["error"]
    assert Path("m/a.safetensors").read_bytes() == b"mine"


def test_a_pipeline_is_updated_whole(hub: Hub, tmp_path: Path) -> None:
    """A folder is replaced as one, in the precision that it was fetched in, and nothing of the old one stays."""
    first = pipeline(tmp_path)
    repo = hub.repo("org/pipe", first)
    assert fetched("hf://org/pipe", "--variant", "fp16").code == 0
    weights = "unet/diffusion_pytorch_model.fp16.safetensors"
    newer = safetensors(tmp_path, 42)
    repo.commit({**first, weights: newer, "unet/extra.json": b"{}"})
    assert states(code=1) == {"pipe": "outdated"}
    code, row = updated("pipe")
    assert (code, row["action"]) == (0, "fetched")
    assert (Path("pipe") / weights).read_bytes() == newer
    assert files() == [
        "pipe.origin.json",
        "pipe/model_index.json",
        "pipe/unet/config.json",
        f"pipe/{weights}",
        "pipe/unet/extra.json",
    ]
    assert states(code=0) == {"pipe": "current"}


def test_what_was_salvaged_is_not_updated(hub: Hub, tmp_path: Path) -> None:
    """Of an unsafe file only tensors are there: that something is newer is told, and it is not let in unasked."""
    repo = hub.repo("org/m", {"evil.ckpt": hostile(tmp_path)})
    assert fetched("hf://org/m", "--salvage").code == 0
    repo.commit({"evil.ckpt": hostile(tmp_path) + b"x", "x": b"x"})
    before = Path("m/evil.safetensors").read_bytes()
    code, row = updated("m/evil.safetensors")
    assert (code, row["action"]) == (2, "failed")
    assert Path("m/evil.safetensors").read_bytes() == before
    assert not os.path.exists("m/evil.ckpt")


@pytest.mark.parametrize("name", ["a.safetensors", "pipe/unet/notes.txt"])
def test_what_the_user_changes_during_an_update(hub: Hub, tmp_path: Path, name: str, monkeypatch) -> None:
    """A file, or a folder, that the user changes while the newer one is downloaded is not replaced either."""
    repos = {"org/m": {"a.safetensors": safetensors(tmp_path, 1)}, "org/pipe": pipeline(tmp_path)}
    for repo, there in repos.items():
        hub.repo(repo, there)
        assert fetched(f"hf://{repo}").code == 0
        weights = next(path for path in there if path.endswith("safetensors"))
        hub.repos[repo].commit({**there, weights: safetensors(tmp_path, 42)})
    mine = Path("m", name) if "/" not in name else Path(name)
    real = recording.examine

    def examine(container, **options):
        mine.write_bytes(b"mine")
        return real(container, **options)

    monkeypatch.setattr(recording, "examine", examine)
    code, row = updated("a" if mine.parent.name == "m" else "pipe")
    assert (code, row["action"]) == (2, "failed")
    assert "changed since it was recorded" in row["unit"]["error"]
    assert mine.read_bytes() == b"mine"
