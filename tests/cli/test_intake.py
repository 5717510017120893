"""``modelhub intake`` and the commands over its catalog."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub.samples.layouts import lora
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from tests.cli.run import modelhub

Make = Callable[..., None]


@pytest.fixture
def downloads(make: Make) -> str:
    """A folder with a LoRA as a pickle, a safetensors file and an unsafe file."""
    make("safe.safetensors", "unsafe.pt")
    write_torch_zip("style.pt", random_weights(lora("sd-1", rank=1), seed=1))
    os.mkdir("downloads")
    for name in ("safe.safetensors", "unsafe.pt", "style.pt"):
        shutil.move(name, "downloads")
    return "downloads"


@pytest.fixture
def taken(downloads: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, taken into a catalog that the environment names."""
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    assert modelhub("intake", downloads, "--library", "library").code == 1
    return downloads


def test_json_and_exit_code(downloads: str) -> None:
    """Intake answers with one object per file and the exit code of a scan."""
    ran = modelhub("intake", downloads, "--library", "library", "--catalog", "c.db", "--format", "json")
    assert ran.code == 1
    document = ran.json()
    assert (document["schema"], document["complete"]) == ("modelhub.intake/1", True)
    reports = {os.path.basename(report["path"]): report for report in document["reports"]}
    assert {name: (report["action"], report["verdict"]) for name, report in reports.items()} == {
        "safe.safetensors": ("linked", "safe"),
        "style.pt": ("converted", "safe"),
        "unsafe.pt": ("refused", "unsafe"),
    }
    style = reports["style.pt"]
    assert style["target"] == os.path.join("library", "lora", "sd-1", "style.safetensors")
    assert os.path.isfile(style["target"])
    assert (style["kind"], style["architecture"], style["precision"]) == ("lora", "sd-1", "fp16")
    assert len(style["digest"]["sha256"]) == 64
    assert reports["unsafe.pt"]["findings"][0]["severity"] == "critical"
    assert Path("c.db").is_file()


@pytest.mark.parametrize(
    ("names", "options", "code"),
    [
        (["safe.pt"], [], 0),
        (["unsafe.pt"], [], 1),
        (["suspicious.pt"], [], 1),
        (["suspicious.pt"], ["--fail-on", "unsafe"], 0),
        (["truncated.pt"], [], 2),
        (["page.safetensors"], [], 2),
        (["missing.pt", "safe.pt"], [], 2),
        (["missing.pt", "unsafe.pt"], [], 1),
        (["missing.pt", "unsafe.pt"], ["--exit-zero"], 0),
    ],
)
def test_exit_codes(make: Make, names: list[str], options: list[str], code: int) -> None:
    """The contract of scan holds for intake, and also for a second run that reads nothing again."""
    make(*(name for name in names if name != "missing.pt"))
    for _ in range(2):
        ran = modelhub("intake", "--catalog", "c.db", "--format", "jsonl", *options, *names)
        assert ran.code == code
        assert [report["path"] for report in ran.json_lines()] == names


def test_nothing_found_is_2() -> None:
    """A folder without models is not a successful intake."""
    assert modelhub("intake", ".", "--catalog", "c.db").code == 2


def test_a_second_run_says_unchanged(taken: str) -> None:
    """What is known is not read again, still tells its verdict, and the table counts it."""
    ran = modelhub("intake", taken, "--library", "library", "--format", "jsonl")
    assert [report["action"] for report in ran.json_lines()] == ["unchanged"] * 3
    assert ran.code == 1
    out = modelhub("intake", taken, "--library", "library").out
    assert out.count("unchanged") == 4


def test_a_dry_run_writes_nothing(downloads: str) -> None:
    """--dry-run makes neither files nor a catalog."""
    before = sorted(str(path) for path in Path().rglob("*"))
    ran = modelhub("intake", downloads, "--dry-run", "--catalog", "c.db", "--library", "library", "--format", "json")
    assert ran.code == 1
    assert ran.json()["dry_run"] is True
    assert {report["action"] for report in ran.json()["reports"]} == {"would convert", "would link", "would be refused"}
    assert sorted(str(path) for path in Path().rglob("*")) == before
    assert modelhub("intake", downloads, "--dry-run").code == 1
    assert list(Path(os.environ["HOME"]).rglob("*.db")) == []


def test_settings_of_the_folder_are_announced(downloads: str) -> None:
    """A catalog chosen by ./modelhub.toml is used, and said so."""
    Path("modelhub.toml").write_text('catalog = "own/c.db"\nlibrary = "own/models"\n')
    ran = modelhub("intake", downloads)
    assert "modelhub.toml" in ran.err
    assert Path("own/c.db").is_file()
    assert Path("own/models/lora/sd-1/style.safetensors").is_file()


def test_list_and_filters(taken: str) -> None:
    """list shows every record, and the filters narrow it."""
    listing = modelhub("list", "--format", "json").json()
    assert listing["schema"] == "modelhub.catalog/1"
    assert len(listing["entries"]) == 4
    assert [entry["name"] for entry in modelhub("list", "--format", "jsonl", "--kind", "lora").json_lines()] == [
        "style",
        "style",
    ]
    (unsafe,) = modelhub("list", "--format", "jsonl", "--verdict", "unsafe").json_lines()
    assert unsafe["name"] == "unsafe"
    assert len(modelhub("list", "--format", "jsonl", "--limit", "1").json_lines()) == 1
    ran = modelhub("list")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 5
    assert "4 records" in ran.err


def test_show_search_and_tag(taken: str) -> None:
    """A record is found by its words, tagged, shown with its lineage, and untagged."""
    (original, converted) = modelhub("search", "STYLE", "--format", "jsonl").json_lines()
    assert modelhub("tag", str(converted["id"]), "Ink", "old master").code == 0
    both = modelhub("search", "master", "--format", "jsonl").json_lines()
    assert [(entry["id"], entry["tags"]) for entry in both] == [
        (each["id"], ["ink", "old master"]) for each in (original, converted)
    ]
    (record,) = modelhub("show", str(converted["id"]), "--format", "json").json()["records"]
    assert record["entry"]["id"] == converted["id"]
    assert [parent["digest"] for parent in record["parents"]] == [original["digest"]]
    assert "made from" in modelhub("show", str(converted["id"])).out
    assert "made into" in modelhub("show", original["digest"][:10]).out
    (untagged,) = modelhub("tag", "--remove", str(converted["id"]), "ink", "--format", "jsonl").json_lines()
    assert untagged["tags"] == ["old master"]


def test_what_does_not_fit_is_a_sentence(taken: str) -> None:
    """No record, or more than one, is an error that says so; a search without a hit is an answer."""
    assert modelhub("show", "nothing-like-it").code == 2
    several = modelhub("set", "style", "architecture=sdxl")
    assert several.code == 2
    assert "2 records" in several.err
    none = modelhub("search", "nothing-like-it")
    assert (none.code, none.out) == (0, "")


def test_reading_makes_no_catalog(downloads: str) -> None:
    """A catalog that is not there is an error where it was named, and empty where it is the default; none is made."""
    ran = modelhub("list", "--catalog", "typo.db")
    assert ran.code == 2
    assert "there is no catalog" in ran.err
    assert modelhub("list").code == 0
    assert not Path("typo.db").exists()
    assert list(Path(os.environ["HOME"]).rglob("*.db")) == []


def test_something_else_than_a_catalog(downloads: str) -> None:
    """A file that is no catalog is one sentence and 2, and stays as it is."""
    Path("other.db").write_bytes(b"my precious data" * 100)
    ran = modelhub("intake", downloads, "--catalog", "other.db")
    assert ran.code == 2
    assert ran.err.startswith("error: other.db: ")
    assert Path("other.db").read_bytes() == b"my precious data" * 100


def test_unusable_names_in_a_record(downloads: str) -> None:
    """A name with control characters is listed harmlessly."""
    os.rename(f"{downloads}/style.pt", f"{downloads}/sty\x1b[31mle\n.pt")
    for arguments in (["intake", downloads], ["list", "-v"], ["show", "1"]):
        out = modelhub(*arguments, "--catalog", "c.db").out
        assert all(text.isprintable() for text in out.splitlines())
