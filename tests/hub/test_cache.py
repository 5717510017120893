"""The cache of huggingface_hub, made by huggingface_hub itself: judged and followed whole, each content once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import _shared_blobs

from modelhub.container import open_path
from modelhub.source import find_sources
from modelhub.source.hub_cache import HubCache
from tests.cli.run import modelhub, process
from tests.hub.server import Hub
from tests.hub.test_fetch import SYSTEM, harmless, pickled, pipeline, safetensors


@pytest.fixture
def cache(hub: Hub) -> Path:
    """The folder of the cache, which is not there yet."""
    return Path(constants.HF_HUB_CACHE)


def scanned(*arguments: str):
    ran = modelhub("scan", *arguments, "--format", "json")
    return ran, {report["path"]: report for report in ran.json()["reports"]}


def shared(cache: Path, blob: Path, xet_hash: str) -> None:
    """Move *blob* into the store of the whole cache, as huggingface_hub does with what Xet has verified."""
    size = blob.stat().st_size
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=xet_hash, cache_dir=str(cache), expected_size=size, replace_existing=False
    )
    assert blob.is_symlink()


def test_each_blob_is_judged_once(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """Two revisions that share files are one verdict for each content, by its address on the Hub, and nothing is asked
    of the Hub."""
    repo = hub.repo("org/m", {"a.ckpt": pickled(tmp_path, 1), "evil.pt": SYSTEM, "README.md": b"text"})
    first = repo.branches["main"]
    snapshot_download("org/m", endpoint=hub.url)
    second = repo.commit({"a.ckpt": pickled(tmp_path, 1), "b.pt": pickled(tmp_path, 2), "README.md": b"other"})
    snapshot_download("org/m", endpoint=hub.url)
    hub.seen.clear()
    ran, reports = scanned("--hf-cache")
    assert ran.code == 1
    assert {path: report["verdict"] for path, report in reports.items()} == {
        f"hf://org/m@{second}/a.ckpt": "safe",
        f"hf://org/m@{second}/b.pt": "safe",
        f"hf://org/m@{first}/evil.pt": "unsafe",
    }
    here = reports[f"hf://org/m@{second}/b.pt"]["file"]
    assert Path(here) == cache / "models--org--m" / "snapshots" / second / "b.pt"
    assert scanned("--hf-cache", str(cache))[1] == reports
    assert hub.asked() == []


def test_as_sarif_and_for_people(hub: Hub, cache: Path) -> None:
    """In SARIF a result's place is the address on the Hub; in text the address begins the lines of a verdict."""
    commit = hub.repo("org/m", {"evil.pt": SYSTEM}).branches["main"]
    snapshot_download("org/m", endpoint=hub.url)
    log = json.loads(modelhub("scan", "--hf-cache", "--format", "sarif").out)
    [run] = log["runs"]
    places = {each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for each in run["results"]}
    assert places == {f"hf://org/m@{commit}/evil.pt"}
    ran = modelhub("scan", "--hf-cache", "--explain")
    assert (ran.code, f"hf://org/m@{commit}/evil.pt" in ran.out) == (1, True)
    assert "system" in ran.out
    assert hub.asked("hub")[-1].path.endswith("evil.pt")  # of the download; nothing was asked to explain it


def test_pipelines_are_judged_whole(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """A pipeline is one verdict, for all revisions of the same files; another revision's own file makes it another."""
    there = pipeline(tmp_path)
    del there["whole.ckpt"], there["README.md"]
    repo = hub.repo("org/pipe", there)
    snapshot_download("org/pipe", endpoint=hub.url)
    first = repo.branches["main"]
    ran, reports = scanned("--hf-cache")
    assert (ran.code, list(reports)) == (0, [f"hf://org/pipe@{first}/"])
    again = repo.commit({**there, "zzz.txt": b"1"})
    shutil.copytree(
        cache / "models--org--pipe" / "snapshots" / first,
        cache / "models--org--pipe" / "snapshots" / again,
        symlinks=True,
    )
    assert list(scanned("--hf-cache")[1]) == [f"hf://org/pipe@{first}/"]
    worse = repo.commit({**there, "unet/x.py": b"print('never run')"})
    snapshot_download("org/pipe", endpoint=hub.url)
    ran, reports = scanned("--hf-cache")
    assert next(iter(reports)) == f"hf://org/pipe@{worse}/"
    assert list(reports)[1:] == [f"hf://org/pipe@{min(first, again)}/"]
    assert "folder.custom-code" in {each["rule"] for each in reports[f"hf://org/pipe@{worse}/"]["findings"]}


def test_what_a_cache_has_beside_its_revisions(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """A broken link is an error, an unfinished download is counted, a blob without a revision is judged if it is a
    model, and notes of files that do not exist are no files."""
    repo = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1), "lost.pt": pickled(tmp_path, 2)})
    snapshot_download("org/m", endpoint=hub.url)
    commit = repo.branches["main"]
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/m", "none.pt", endpoint=hub.url)
    folder = cache / "models--org--m"
    assert list((folder / ".no_exist" / commit).iterdir())
    os.unlink(os.path.realpath(folder / "snapshots" / commit / "lost.pt"))
    (folder / "blobs" / f"{'a' * 64}.0123abcd.incomplete").write_bytes(SYSTEM)
    (folder / "blobs" / ("b" * 64)).write_bytes(SYSTEM)
    (folder / "blobs" / ("c" * 40)).write_bytes(b"only text")
    ran, reports = scanned("--hf-cache")
    assert ran.code == 1
    assert {path: report["verdict"] for path, report in reports.items()} == {
        f"hf://org/m@{commit}/a.safetensors": "safe",
        f"hf://org/m@{commit}/lost.pt": "unknown",
        str(folder / "blobs" / ("b" * 64)): "unsafe",
    }
    assert "leads nowhere" in str(reports[f"hf://org/m@{commit}/lost.pt"]["findings"])
    assert "1 download not finished" in ran.err


def test_blobs_of_the_whole_cache(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """Xet's files, kept once for all repositories, are judged once, and a pipeline of files there is in order."""
    data = pickled(tmp_path, 1)
    commits = [hub.repo(f"org/{name}", {f"{name}.pt": data}).branches["main"] for name in "ab"]
    for name in "ab":
        snapshot_download(f"org/{name}", endpoint=hub.url)
    there = pipeline(tmp_path)
    del there["whole.ckpt"]
    pipe = hub.repo("org/pipe", there).branches["main"]
    snapshot_download("org/pipe", endpoint=hub.url)
    for number, blob in enumerate(sorted(cache.glob("models--*/blobs/*"))):
        same = blob.name == sorted(cache.glob("models--org--a/blobs/*"))[0].name
        shared(cache, blob, "f" * 64 if same else f"{number:064x}")
    stray = cache / "blobs" / "ee" / ("e" * 64)
    stray.parent.mkdir()
    stray.write_bytes(SYSTEM)
    _, reports = scanned("--hf-cache")
    assert {path: report["verdict"] for path, report in reports.items()} == {
        f"hf://org/a@{commits[0]}/a.pt": "safe",
        f"hf://org/pipe@{pipe}/": "safe",
        str(stray): "unsafe",
    }
    assert reports[f"hf://org/pipe@{pipe}/"]["findings"] == []
    with open_path(cache / "models--org--pipe" / "snapshots" / pipe) as container:
        assert container.anomalies == ()


def test_a_name_that_says_it_is_a_model_counts(hub: Hub, cache: Path) -> None:
    """A content that one revision calls a text and another a model is told by the latter's name."""
    repo = hub.repo("org/m", {"model.pt": b"not a model at all", "notes.txt": b"x"})
    snapshot_download("org/m", endpoint=hub.url)
    first = repo.branches["main"]
    repo.commit({"aaa.txt": b"not a model at all"})
    snapshot_download("org/m", endpoint=hub.url)
    assert list(scanned("--hf-cache")[1]) == [f"hf://org/m@{first}/model.pt"]


def test_data_sets_and_spaces_too(hub: Hub, cache: Path) -> None:
    """Repositories of all kinds are judged, and so is what somebody else put into the cache; names tell the kind."""
    for kind, content in (("datasets", SYSTEM), ("spaces", harmless(100))):
        folder = cache / f"{kind}--org--x" / "snapshots" / ("a" * 40) / "deep"
        folder.mkdir(parents=True)
        (folder / "x.pkl").write_bytes(content)
    (cache / "mine").mkdir()
    (cache / "mine" / "y.pkl").write_bytes(harmless(50))
    (cache / ".locks").mkdir()
    (cache / ".locks" / "z.pkl").write_bytes(harmless(51))
    (cache / "version.txt").write_text("1")
    _, reports = scanned("--hf-cache")
    assert {path: report["verdict"] for path, report in reports.items()} == {
        f"hf://datasets/org/x@{'a' * 40}/deep/x.pkl": "unsafe",
        f"hf://spaces/org/x@{'a' * 40}/deep/x.pkl": "safe",
        str(cache / "mine" / "y.pkl"): "safe",
    }


def test_where_the_cache_is(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """The cache is where huggingface_hub's environment says, or where the user does, ``HF_HOME`` included."""
    commit = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)}).branches["main"]
    home = tmp_path / "home"
    snapshot_download("org/m", endpoint=hub.url, cache_dir=home / "hub")
    name = f"hf://org/m@{commit}/a.safetensors".encode()
    for env in ({"HF_HOME": str(home)}, {"HF_HUB_CACHE": str(home / "hub")}):
        done = process("scan", "--hf-cache", **env)
        assert (done.returncode, name in done.stdout) == (0, True)
    assert list(scanned("--hf-cache", str(home))[1]) == [name.decode()]
    ran = modelhub("scan", "--hf-cache", str(tmp_path / "none"))
    assert ran.code == 2
    assert "no Hugging Face cache is there" in ran.out


def test_inspect(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """``inspect --hf-cache`` names the models, and says nothing of the rest."""
    commit = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1), "README.md": b"x"}).branches["main"]
    snapshot_download("org/m", endpoint=hub.url)
    ran = modelhub("inspect", "--hf-cache", "--format", "json")
    assert (ran.code, [each["path"] for each in ran.json()["reports"]]) == (0, [f"hf://org/m@{commit}/a.safetensors"])
    assert f"hf://org/m@{commit}/a.safetensors" in modelhub("inspect", "--hf-cache").out


def test_a_walk_of_the_cache_calls_files_by_their_names(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """Where only a commit was downloaded, so that there are no refs, a walk takes names and not blobs; a folder of that
    name elsewhere is walked."""
    commit = hub.repo("org/m", {"a.pt": pickled(tmp_path, 1)}).branches["main"]
    snapshot_download("org/m", endpoint=hub.url, revision=commit)
    assert not (cache / "models--org--m" / "refs").exists()
    found = [each.path for each in find_sources([str(cache)], every_file=True)]
    assert [os.path.basename(path) for path in found if "blobs" in path] == []
    assert [os.path.basename(path) for path in found if "snapshots" in path] == ["a.pt"]
    for name in ("blobs", "snapshots", "refs"):
        Path(f"odd/{name}").mkdir(parents=True)
        Path(f"odd/{name}/x.pt").write_bytes(SYSTEM)
    assert len(list(find_sources(["odd"], every_file=True))) == 3


def test_the_library_follows_the_cache(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """``library add --dialect hf-cache`` follows huggingface_hub's own cache: a record for each content, its revisions
    as places; a link without its blob is offline, an unfinished download no record."""
    repo = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1), "b.safetensors": safetensors(tmp_path, 2)})
    snapshot_download("org/m", endpoint=hub.url)
    repo.commit({"a.safetensors": safetensors(tmp_path, 1), "c.safetensors": safetensors(tmp_path, 3)})
    snapshot_download("org/m", endpoint=hub.url)
    hub.repo("org/twin", {"a.safetensors": safetensors(tmp_path, 1)})
    snapshot_download("org/twin", endpoint=hub.url)
    for blob in cache.glob("models--*/blobs/*"):
        shared(cache, blob, blob.name)
    (cache / "models--org--m" / "blobs" / "0.incomplete").write_bytes(b"half")
    catalog = ("--catalog", str(tmp_path / "c.db"), "--format", "json")
    ran = modelhub("library", "add", "--dialect", "hf-cache", *catalog)
    assert (ran.code, ran.json()["libraries"][0]["path"]) == (0, str(cache))
    assert modelhub("library", "add", *catalog).code == 2
    ran = modelhub("library", "sync", *catalog)
    assert (ran.code, ran.json()["counts"]) == (0, {"unchanged": 0, "added": 3, "linked": 2})
    os.unlink(os.path.realpath(cache / "models--org--m" / "snapshots" / repo.branches["main"] / "c.safetensors"))
    ran = modelhub("library", "sync", *catalog)
    assert (ran.code, ran.json()["counts"]) == (0, {"unchanged": 4, "offline": 1})


def test_a_pipeline_without_one_of_its_blobs(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """A cached pipeline of which a blob is gone is unknown, and in the catalog a record with that problem."""
    there = pipeline(tmp_path)
    del there["whole.ckpt"]
    commit = hub.repo("org/pipe", there).branches["main"]
    snapshot_download("org/pipe", endpoint=hub.url)
    name = "unet/diffusion_pytorch_model.safetensors"
    os.unlink(os.path.realpath(cache / "models--org--pipe" / "snapshots" / commit / name))
    ran, reports = scanned("--hf-cache")
    assert (ran.code, [report["verdict"] for report in reports.values()]) == (2, ["unknown"])
    catalog = ("--catalog", str(tmp_path / "c.db"))
    assert modelhub("library", "add", "--dialect", "hf-cache", *catalog).code == 0
    assert modelhub("library", "sync", *catalog).code == 0
    assert "leads nowhere" in modelhub("show", "pipe", *catalog).out


def test_names_of_what_no_revision_has(tmp_path: Path) -> None:
    """Only what lies in a revision has an address; a folder has a slash at its end."""
    cache = HubCache(str(tmp_path))
    folder = tmp_path / "models--gpt2" / "snapshots" / "r1" / "unet"
    folder.mkdir(parents=True)
    assert cache.address_of(str(folder)) == "hf://gpt2@r1/unet/"
    assert cache.address_of(str(folder.parent)) == "hf://gpt2@r1/"
    assert cache.address_of(str(tmp_path / "models--a--b" / "blobs" / "x")).startswith(str(tmp_path))
    assert cache.address_of("hf://org/m/a.pt") == "hf://org/m/a.pt"
    assert cache.address_of("models--a--b/snapshots/r1/x") == "models--a--b/snapshots/r1/x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs there")
def test_a_reference_that_never_answers(cache: Path) -> None:
    """A FIFO among the references of a cache is passed over."""
    folder = cache / "models--org--m"
    (folder / "snapshots" / "r1").mkdir(parents=True)
    (folder / "snapshots" / "r1" / "evil.pt").write_bytes(SYSTEM)
    (folder / "refs").mkdir()
    os.mkfifo(folder / "refs" / "main")
    done = process("scan", "--hf-cache", str(cache))
    assert (done.returncode, b"hf://org/m@r1/evil.pt" in done.stdout) == (1, True)
