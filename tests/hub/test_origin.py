"""Where a file came from and what its source says, in the catalog; what lies in quarantine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights
from modelhub.tensors import DType
from tests.cli.run import modelhub
from tests.hub.files import sparse_checkpoint
from tests.hub.server import Hub
from tests.hub.test_fetch import fetched, hostile, pickled, pipeline, safetensors
from tests.syncing.files import lora

CARD = b"---\nlicense: mit\n---\n# Harbour\nPaints ships at anchor.\n"


def shown(selector: str) -> Any:
    return modelhub("show", selector, "--catalog", "../c.db", "--format", "json").json()["records"][0]


def listed(*arguments: str) -> list[str]:
    return [each["name"] for each in modelhub(*arguments, "--catalog", "../c.db", "--format", "jsonl").json_lines()]


def test_where_a_file_came_from(hub: Hub, tmp_path: Path) -> None:
    """Repository, revision, commit, path, digest, licence, base model, tags, gating, card and date are in the catalog,
    and found by a search; the card's metadata is not taken for its text."""
    data = safetensors(tmp_path, 1)
    about: dict[str, Any] = {"license": "openrail", "base_model": ["org/base"], "instance_prompt": "harbour at dusk"}
    hub.repo("org/m", {"x/a.safetensors": data, "README.md": CARD}, card=about, tags=["lora"])
    commit = hub.repos["org/m"].branches["dev"] = hub.repos["org/m"].branches["main"]
    assert fetched("hf://org/m@dev", "--to", "models").code == 0
    record = shown("a.safetensors")
    [came] = record["downloads"]
    sha256 = hashlib.sha256(data).hexdigest()
    assert (came["address"], came["asked"]) == (f"hf://org/m@{commit}/x/a.safetensors", "dev")
    assert came["files"] == [{"path": "x/a.safetensors", "size": len(data), "sha256": sha256, "etag": sha256}]
    assert came["added"]
    [claim] = record["claims"]
    assert (claim["origin"], claim["address"]) == ("huggingface", f"hf://org/m@{commit}/")
    assert claim["facts"] == {
        "name": "m",
        "base_model": "org/base",
        "creator": "org",
        "licence": "openrail",
        "triggers": ["harbour at dusk"],
        "tags": ["lora"],
        "description": "# Harbour\nPaints ships at anchor.",
    }
    assert claim["read"]
    for words in ("org/m", "openrail", "anchor", "dusk", "org/base"):
        assert listed("search", words) == ["a"], words
    text = modelhub("show", "a", "--catalog", "../c.db").out
    assert "from  hf://org/m@" in text
    assert "Paints ships" in text
    assert record["entry"]["state"] == "live"
    assert fetched("hf://org/m@dev", "--to", "models").json()["units"][0]["action"] == "already there"
    assert len(shown("a.safetensors")["downloads"]) == 1


def test_what_the_page_says_and_the_bytes_do_not(hub: Hub) -> None:
    """A base model of another architecture than the bytes have is told as a contradiction, and decides nothing."""
    hub.repo(
        "org/m", {"a.safetensors": lora(1)}, card={"base_model": "stabilityai/stable-diffusion-xl-base-1.0"}, gated=True
    )
    os.environ["HF_TOKEN"] = hub.token
    try:
        assert fetched("hf://org/m").code == 0
    finally:
        del os.environ["HF_TOKEN"]
    record = shown("a.safetensors")
    assert record["entry"]["architecture"] == "sd-1"
    assert "stabilityai/stable-diffusion-xl-base-1.0 (sdxl), but it is sd-1" in record["disagreements"][0]
    assert record["claims"][0]["extra"] == {"gated": "auto"}


def test_quarantine_in_the_catalog(hub: Hub, tmp_path: Path) -> None:
    """What was downloaded and not let in is recorded as quarantined, with its verdict; once it is removed, as gone."""
    sparse_checkpoint(tmp_path / "odd.ckpt", 40, 100_000, own_name="archive/dta.pkl")
    hub.repo("org/m", {"odd.ckpt": (tmp_path / "odd.ckpt").read_bytes()})
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    record = shown(f"#{unit['records'][0]}")
    assert (record["entry"]["name"], record["entry"]["state"], record["entry"]["verdict"]) == (
        "odd",
        "quarantined",
        "suspicious",
    )
    assert record["downloads"][0]["address"].endswith("/odd.ckpt")
    assert "odd (in quarantine)" in modelhub("list", "--catalog", "../c.db").out
    assert os.path.isfile(record["entry"]["path"])
    shutil.rmtree(".modelhub-quarantine")
    hub.repo("org/n", {"good.safetensors": safetensors(tmp_path, 2)})
    assert fetched("hf://org/n").code == 0
    assert shown("odd")["entry"]["state"] == "gone"


def test_salvaged(hub: Hub, tmp_path: Path) -> None:
    """What was salvaged says so and where from; the file itself is known by its digest, unsafe and gone."""
    data = hostile(tmp_path)
    hub.repo("org/m", {"evil.ckpt": data})
    assert fetched("hf://org/m", "--salvage").code == 0
    record = shown("evil.safetensors")
    assert record["downloads"][0]["salvaged"] is True
    assert [parent["digest"] for parent in record["parents"]] == [hashlib.sha256(data).hexdigest()]
    evil = shown(hashlib.sha256(data).hexdigest())
    assert (evil["entry"]["state"], evil["entry"]["verdict"]) == ("gone", "unsafe")


def test_a_pipeline_and_a_pickle(hub: Hub, tmp_path: Path) -> None:
    """A folder is one record with all its files' digests; what a pickle was converted to has it as its parent."""
    hub.repo("org/pipe", pipeline(tmp_path))
    hub.repo("org/m", {"a.ckpt": pickled(tmp_path, 3)})
    assert fetched("hf://org/pipe").code == 0
    assert fetched("hf://org/m").code == 0
    record = shown("pipe")
    assert record["locations"][0]["is_folder"]
    assert [each["path"] for each in record["downloads"][0]["files"]] == [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert all(each["etag"] for each in record["downloads"][0]["files"])
    assert shown("m/a.safetensors")["parents"][0]["digest"] == shown("m/a.ckpt")["entry"]["digest"]


def test_any_other_server(hub: Hub, tmp_path: Path) -> None:
    """Of a file from elsewhere the address, without its query, the ETag and the date are kept; it claims nothing."""
    data = safetensors(tmp_path, 1)
    assert fetched(hub.put("x.safetensors", data) + "?token=SECRET").code == 0
    record = shown("x.safetensors")
    [came] = record["downloads"]
    assert came["address"] == f"{hub.storage}/x.safetensors"
    assert hashlib.sha256(data).hexdigest() in came["files"][0]["etag"]
    assert record["claims"] == []
    assert b"SECRET" not in Path("../c.db").read_bytes()


def test_a_card_that_is_not_there_or_cannot_be_read(hub: Hub, tmp_path: Path) -> None:
    """A repository without a card, or whose card cannot be had, is fetched as any other; a card in no encoding too."""
    hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1), "README.md": CARD})
    hub.fault = lambda handler, part: "README" in handler.path and not handler.error(500)
    assert fetched("hf://org/m").code == 0
    assert "description" not in shown("a.safetensors")["claims"][0]["facts"]
    hub.fault = None
    hub.repo("org/n", {"b.safetensors": safetensors(tmp_path, 2), "README.md": b"\xff\xfe---" * 80_000})
    assert fetched("hf://org/n").code == 0
    assert len(shown("b.safetensors")["claims"][0]["facts"]["description"]) <= 100_000


def test_one_reading_less(hub: Hub, tmp_path: Path) -> None:
    """What was examined in quarantine is not examined again by intake: the same record, found unchanged."""
    write_safetensors(str(tmp_path / "x"), random_weights({"a": (DType.F16, (8,))}, seed=1), {})
    hub.repo("org/m", {"x.safetensors": (tmp_path / "x").read_bytes()})
    assert fetched("hf://org/m").code == 0
    assert len(shown("x.safetensors")["scans"]) == 1
    assert [each["state"] for each in shown("x.safetensors")["locations"]] == ["live", "moved"]
    assert json.loads(Path("m/x.safetensors.origin.json").read_text())["files"][0]["etag"]


def test_what_may_be_something_else_has_no_origin(hub: Hub, tmp_path: Path) -> None:
    """Other bytes of the same length at a target are not said to have come from there; the same bytes are."""
    data = safetensors(tmp_path, 1)
    small = json.dumps({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    in_git = len(small).to_bytes(8, "little") + small
    hub.repo("org/m", {"b.safetensors": in_git + b"ab", "c.safetensors": in_git + b"cd"})
    Path("m").mkdir()
    Path("a.safetensors").write_bytes(safetensors(tmp_path, 2))
    Path("m/b.safetensors").write_bytes(in_git + b"xy")
    Path("m/c.safetensors").write_bytes(in_git + b"cd")
    for address in (hub.put("a.safetensors", data), "hf://org/m"):
        assert {unit["action"] for unit in fetched(address).json()["units"]} == {"already there"}
    assert [len(shown(name)["downloads"]) for name in ("a", "b", "c")] == [0, 0, 1]
