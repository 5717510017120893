"""Judging and naming what lies on a server: the same answers as here, from a few hundred kilobytes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from modelhub import verbs
from modelhub.errors import SourceError
from modelhub.samples.adapters import lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.tensors import DType
from tests.cli.run import ROOT, modelhub, process
from tests.hub.files import call_of, sparse_checkpoint, sparse_safetensors
from tests.hub.server import Hub

MOST_REQUESTS, MOST_BYTES = 12, 2 << 20
LARGE = {f"block.{n}.weight": (DType.F32, (64, 512)) for n in range(24)}


def test_a_checkpoint_of_seven_gigabytes_is_judged_with_two_megabytes(hub: Hub, tmp_path: Path) -> None:
    """A 7 GB checkpoint of 2,500 tensors takes at most 12 requests and 2 MB, all that the servers see counted."""
    sparse_checkpoint(tmp_path / "big.ckpt", 2500, 700_000)
    hub.repo("org/big", {"big.ckpt": tmp_path / "big.ckpt", "README.md": b"text"})
    ran = modelhub("scan", "hf://org/big/big.ckpt", "--format", "json")
    [report] = ran.json()["reports"]
    assert (ran.code, report["verdict"], report["container"]) == (0, "safe", "torch-zip")
    assert {finding["rule"] for finding in report["findings"]} == {"zip.headers-inferred"}
    assert len(hub.asked()) <= MOST_REQUESTS
    assert hub.sent <= MOST_BYTES
    files = [seen for seen in hub.asked() if "/resolve/" in seen.path or seen.server == "storage"]
    size = (tmp_path / "big.ckpt").stat().st_size
    assert report["traffic"] == {"requests": len(files), "received": sum(f.sent for f in files), "size": size}
    assert size > 7e9


def test_the_report_names_the_commit(hub: Hub) -> None:
    """A report says which commit was judged, and that name leads to the same bytes when the branch has moved on."""
    repo = hub.repo("org/m", {"a.safetensors": _safetensors(1)})
    first = repo.branches["main"]
    [report] = modelhub("scan", "hf://org/m", "--format", "json").json()["reports"]
    assert report["path"] == f"hf://org/m@{first}/a.safetensors"
    repo.commit({"a.safetensors": b"no model at all"})
    assert modelhub("scan", report["path"]).code == 0
    assert modelhub("scan", "hf://org/m").code == 2
    assert modelhub("scan", f"hf://org/m@{first}").code == 0


def test_what_would_run_code_is_unsafe(hub: Hub, tmp_path: Path) -> None:
    """The pickle of a remote checkpoint is read as that of a local one: the same findings, at the same places."""
    path = tmp_path / "evil.ckpt"
    sparse_checkpoint(path, 40, 100_000, call_of("os", "system", "echo harmless"))
    hub.repo("org/evil", {"evil.ckpt": path})
    ran = modelhub("scan", "hf://org/evil", "--format", "json")
    [there], [here] = ran.json()["reports"], modelhub("scan", str(path), "--format", "json").json()["reports"]
    assert (ran.code, there["verdict"]) == (1, "unsafe")
    assert [f for f in there["findings"] if f["severity"] != "info"] == here["findings"]


@pytest.mark.parametrize("options", [{"gap": 4096}, {"own_name": "archive/dta.pkl"}], ids=str)
def test_what_could_hide_between_storages(hub: Hub, tmp_path: Path, options: dict[str, int | str]) -> None:
    """Bytes that torch's layout does not account for are looked at even from a distance; here, everything is."""
    path = tmp_path / "odd.ckpt"
    sparse_checkpoint(path, 40, 100_000, **options)
    assert verbs.scan(path).verdict.label == "suspicious"
    hub.repo("org/odd", {"odd.ckpt": path})
    there = verbs.scan("hf://org/odd/odd.ckpt")
    rules = {finding.rule for finding in there.findings}
    if "gap" in options:
        assert there.verdict.label == "suspicious"
        assert "zip.gap" in rules
    else:  # only a reader without the directory would see it; the report says what was not read
        assert rules == {"zip.headers-inferred"}
        assert there.verdict.label == "safe"
        assert verbs.scan("hf://org/odd/odd.ckpt", deep=True).verdict.label == "suspicious"


def test_a_safetensors_file_is_judged_by_its_header(hub: Hub, tmp_path: Path) -> None:
    """Of a safetensors file of 5 GB the header is read, and the end, where an archive could hide."""
    header = {
        f"t{n}": {"dtype": "F16", "shape": [5_000_000], "data_offsets": [n * 10_000_000, (n + 1) * 10_000_000]}
        for n in range(500)
    }
    sparse_safetensors(tmp_path / "m.safetensors", json.dumps(header).encode(), 5_000_000_000)
    hub.repo("org/st", {"m.safetensors": tmp_path / "m.safetensors"})
    assert verbs.scan("hf://org/st/m.safetensors").verdict.label == "safe"
    assert hub.sent < 600_000
    assert len(verbs.inspect("hf://org/st/m.safetensors").container.state_dict) == 500


def test_old_checkpoints(hub: Hub, tmp_path: Path) -> None:
    """A file of the old format is judged without a request for each of its storages, and one that was cut is told."""
    path = tmp_path / "old.ckpt"
    write_torch_legacy(str(path), random_weights(LARGE, seed=4))
    hub.repo("org/old", {"old.ckpt": path.read_bytes(), "cut.ckpt": path.read_bytes()[:-1000]})
    report = verbs.scan("hf://org/old/old.ckpt")
    assert report.verdict.label == "safe"
    assert "legacy.counts-inferred" in {finding.rule for finding in report.findings}
    assert len(hub.asked()) <= 8
    assert "legacy.truncated" in {finding.rule for finding in verbs.scan("hf://org/old/cut.ckpt").findings}


def test_the_same_identity_as_here(hub: Hub, tmp_path: Path) -> None:
    """What is told of a remote file is what is told of the same file here."""
    path = tmp_path / "lora.safetensors"
    write_safetensors(str(path), random_weights(lora("sd-1"), seed=5), {"ss_network_dim": "4"})
    hub.repo("org/lora", {"lora.safetensors": path.read_bytes()})
    there = modelhub("inspect", "hf://org/lora", "--format", "json").json()["reports"][0]
    here = modelhub("inspect", str(path), "--format", "json").json()["reports"][0]
    assert there.pop("traffic")["requests"] > 0
    assert {**there, "path": ""} == {**here, "path": ""}
    assert here["kind"] == "lora"


def test_a_repository_of_loose_files(hub: Hub) -> None:
    """Each file with a model's name is judged, in all pages of the listing; texts and pictures are not asked for."""
    hub.page_size = 7
    files = {f"loras/{n:03}.safetensors": _safetensors(n) for n in range(20)}
    hub.repo("org/many", {**files, "README.md": b"text", "preview.png": b"picture", "notes.txt": b"n"})
    ran = modelhub("scan", "hf://org/many", "--format", "json", "--jobs", "1")
    assert [report["path"].rpartition("/")[2] for report in ran.json()["reports"]] == [
        f"{n:03}.safetensors" for n in range(20)
    ]
    assert ran.code == 0
    assert not [seen for seen in hub.asked() if "README" in seen.path or "png" in seen.path or "notes" in seen.path]
    assert modelhub("scan", "hf://org/many/loras").err.startswith("20 files: 20 safe")


def test_ten_thousand_files(hub: Hub) -> None:
    """A repository of 10,000 files is listed page by page."""
    hub.page_size = 1000
    hub.repo("org/huge", {**{f"data/{n}.txt": b"x" for n in range(10_000)}, "m.safetensors": _safetensors(1)})
    assert modelhub("scan", "hf://org/huge").code == 0
    assert len([seen for seen in hub.asked() if "/tree/" in seen.path]) == 11


def test_a_pipeline_is_one_thing(hub: Hub) -> None:
    """A repository that is a diffusers pipeline is judged as one folder, its configurations and code included."""
    index = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
    files = {
        "model_index.json": index.encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": _safetensors(1),
        "README.md": b"text",
        "extra.png": b"picture",
    }
    hub.repo("org/pipe", files)
    hub.repo("org/code", {**files, "unet/own.py": b"print('never run')"})
    ran = modelhub("scan", "hf://org/pipe", "--format", "json")
    [report] = ran.json()["reports"]
    assert (ran.code, report["container"], report["verdict"]) == (0, "diffusers-folder", "safe")
    assert report["path"].endswith("/")
    assert report["traffic"]["requests"] == 3
    assert not [seen for seen in hub.asked() if "README" in seen.path or "png" in seen.path]
    rules = {finding.rule for finding in verbs.scan("hf://org/code").findings}
    assert "folder.custom-code" in rules
    assert modelhub("inspect", "hf://org/pipe").code == 0


def test_hostile_names(hub: Hub) -> None:
    """Names in a repository are only names: nothing is written, and what a terminal would obey is shown as text."""
    names = [
        "../../evil.safetensors",
        "/etc/evil.safetensors",
        "a\x1b[31m.safetensors",
        "con.safetensors",
        "@.safetensors",
    ]
    hub.repo("org/names", {name: _safetensors(n) for n, name in enumerate(names)})
    ran = modelhub("scan", "hf://org/names")
    assert "\x1b" not in ran.out + ran.err
    assert ran.err.startswith("5 files")
    assert os.listdir(".") == []


def test_any_https_address(hub: Hub, tmp_path: Path) -> None:
    """A file of any server is judged by its address; http is for this machine alone."""
    write_torch_zip(str(tmp_path / "a.pt"), random_weights(LARGE, seed=6))
    address = hub.put("files/a.pt", tmp_path / "a.pt")
    ran = modelhub("scan", address, "--format", "json")
    assert (ran.code, ran.json()["reports"][0]["path"]) == (0, address)
    assert hub.sent < 400_000
    refused = modelhub("scan", "http://example.com/a.pt")
    assert refused.code == 2
    assert "which is not https" in refused.out


def test_a_page_of_the_hub_is_its_file(hub: Hub) -> None:
    """The address of a file's page on the Hub, as people copy it, names the file."""
    hub.repo("org/m", {"a.safetensors": _safetensors(1)})
    [report] = modelhub("scan", f"{hub.url}/org/m/blob/main/a.safetensors", "--format", "json").json()["reports"]
    assert report["path"].startswith("hf://org/m@")
    assert report["verdict"] == "safe"


def test_deep_reads_all_of_it(hub: Hub, tmp_path: Path) -> None:
    """``--deep`` and ``--digest`` read a remote file to its end; without them no digest is computed."""
    import hashlib

    path = tmp_path / "a.pt"
    write_torch_zip(str(path), random_weights(LARGE, seed=6))
    hub.repo("org/m", {"a.pt": path.read_bytes()})
    assert verbs.scan("hf://org/m/a.pt").digest is None
    ran = modelhub("scan", "hf://org/m/a.pt", "--deep", "--digest", "--format", "json")
    [report] = ran.json()["reports"]
    assert report["digest"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ran.code == 0


def test_nothing_is_stored(hub: Hub, tmp_path: Path) -> None:
    """Scanning over the network writes no file anywhere."""
    hub.repo("org/m", {"a.safetensors": _safetensors(1)})
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert modelhub("scan", "hf://org/m", "--cache").code == 0
    new = set(map(str, tmp_path.rglob("*"))) - set(before)
    assert not [path for path in new if "safetensors" in path or "hf-cache" in path]


def test_names_that_name_nothing(hub: Hub) -> None:
    """What is no repository of models, or not there, is told in a sentence, and ends with 2."""
    hub.repo("org/m", {"a.safetensors": _safetensors(1)})
    for address, text in [
        ("hf://org", "names no repository"),
        ("hf://datasets/org/m", "names no repository"),
        ("hf://org/../m", "names no repository"),
        ("hf://org/none", "no such repository"),
        ("hf://org/m@v9", "no such revision"),
        ("hf://org/m/none.ckpt", "no such file"),
        ("https://", "cannot be reached"),
    ]:
        ran = modelhub("scan", address)
        assert ran.code == 2, address
        assert text in ran.out, (address, ran.out)


def test_paths_start_no_network(tmp_path: Path, make) -> None:
    """Scanning a path loads nothing that reaches a network."""
    make("safe.pt")
    code = "import sys; from modelhub.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [os.sys.executable, "-c", code, "scan", "safe.pt"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    loaded = set(done.stdout.split())
    assert "modelhub.source.address" in loaded
    assert not {"modelhub.source.network", "modelhub.source.web", "httpx2", "huggingface_hub", "socket"} & loaded


def test_offline(hub: Hub) -> None:
    """With HF_HUB_OFFLINE nothing is asked, and the sentence says why."""
    hub.repo("org/m", {"a.safetensors": _safetensors(1)})
    done = process("scan", "hf://org/m/a.safetensors", HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert b"HF_HUB_OFFLINE" in done.stdout
    assert hub.asked() == []


def test_too_much_to_read_from_here(hub: Hub, tmp_path: Path) -> None:
    """A file that takes hundreds of requests to judge is not judged from a distance: unknown, with the way out."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "odd.pt", "w") as archive:
        for number in range(500):
            archive.writestr(f"a/member{number}", bytes(300_000))
    hub.repo("org/odd", {"odd.pt": tmp_path / "odd.pt"})
    with pytest.raises(SourceError, match=r"requests|MiB") as caught:
        verbs.scan("hf://org/odd/odd.pt")
    assert "fetch" in caught.value.hint


def _safetensors(seed: int) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        write_safetensors(str(path), random_weights({"a.weight": (DType.F16, (8, 8))}, seed=seed), {})
        return path.read_bytes()


@pytest.mark.parametrize("command", [("convert",), ("intake", "--catalog", "c.db"), ("hash", "--catalog", "c.db")])
def test_what_has_to_be_here(hub: Hub, command: tuple[str, ...]) -> None:
    """Commands that read whole files do not take an address for one, and ask no server for it."""
    hub.repo("org/m", {"a.safetensors": _safetensors(1)})
    ran = modelhub(command[0], "hf://org/m/a.safetensors", *command[1:])
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert hub.asked() == []
