"""Fetching: planned, judged, downloaded into quarantine, compared, and let in when it is safe."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from modelhub.errors import NoSpace, SourceError
from modelhub.fetching import fetch, plan_fetch, recording
from modelhub.fetching import plan as planning
from modelhub.fetching.choose import choose_folder, choose_loose
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.source.names import check_name, check_names
from modelhub.tensors import DType
from tests.cli.run import modelhub
from tests.hub.files import call_of, sparse_checkpoint
from tests.hub.server import Blob, Hub

LAYOUT = {f"block.{n}.weight": (DType.F32, (64, 256)) for n in range(8)}


def safetensors(tmp_path: Path, seed: int) -> bytes:
    write_safetensors(str(tmp_path / "made"), random_weights(LAYOUT, seed=seed), {})
    return (tmp_path / "made").read_bytes()


def pickled(tmp_path: Path, seed: int) -> bytes:
    write_torch_zip(str(tmp_path / "made"), random_weights(LAYOUT, seed=seed))
    return (tmp_path / "made").read_bytes()


def hostile(tmp_path: Path) -> bytes:
    sparse_checkpoint(tmp_path / "made", 4, 20_000, call_of("os", "system", "echo harmless"))
    return (tmp_path / "made").read_bytes()


def files() -> list[str]:
    """Everything below the working folder, by relative path."""
    return sorted(path.relative_to(".").as_posix() for path in Path().rglob("*") if path.is_file())


def fetched(*arguments: str):
    return modelhub("fetch", *arguments, "--catalog", "../c.db", "--format", "json")


def test_a_repository_of_twins(hub: Hub, tmp_path: Path) -> None:
    """Of a pickle and a safetensors file of the same weights the latter is fetched, with a note of its origin."""
    data = safetensors(tmp_path, 1)
    repo = hub.repo(
        "org/m",
        {"a.safetensors": data, "a.ckpt": pickled(tmp_path, 1), "README.md": b"text"},
        card={"license": "openrail", "base_model": "org/base"},
    )
    ran = fetched("hf://org/m", "--to", "models")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"], unit["verdict"]) == (0, "fetched", "safe")
    assert files() == ["models/m/a.safetensors", "models/m/a.safetensors.origin.json"]
    assert Path("models/m/a.safetensors").read_bytes() == data
    origin = json.loads(Path("models/m/a.safetensors.origin.json").read_text())
    assert origin["address"] == f"hf://org/m@{repo.branches['main']}/a.safetensors"
    assert origin["claims"]["licence"] == "openrail"
    assert origin["files"][0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert unit["records"] == [1]
    again = fetched("hf://org/m", "--to", "models").json()["units"][0]
    assert again["action"] == "already there"


def test_a_dry_run_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    """A dry run shows sizes, verdicts, licence and what is left out, and writes nothing."""
    files_there = {"a.safetensors": safetensors(tmp_path, 1), "a.ckpt": pickled(tmp_path, 1)}
    hub.repo("org/m", files_there, card={"license": "openrail"}, gated=False)
    ran = modelhub("fetch", "hf://org/m", "--dry-run")
    assert ran.code == 0
    assert "would fetch" in ran.out
    assert "openrail" in ran.out
    assert "left out: a.ckpt: a safetensors file has the same weights" in ran.out
    assert files() == []


def test_what_is_unsafe_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    """An unsafe file stays where it is, beside a safe one that is fetched; the exit code is 1."""
    evil = hostile(tmp_path)
    hub.repo("org/m", {"evil.ckpt": evil, "good.safetensors": safetensors(tmp_path, 2)})
    ran = fetched("hf://org/m")
    assert ran.code == 1
    assert {unit["address"].rpartition("/")[2]: unit["action"] for unit in ran.json()["units"]} == {
        "evil.ckpt": "refused",
        "good.safetensors": "fetched",
    }
    assert [name for name in files() if "evil" in name] == []


def test_salvage(hub: Hub, tmp_path: Path) -> None:
    """``--salvage`` takes the tensors of an unsafe file, and nothing else of it stays."""
    hub.repo("org/m", {"evil.ckpt": hostile(tmp_path)})
    ran = fetched("hf://org/m", "--salvage")
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "salvaged")
    assert files() == ["m/evil.safetensors", "m/evil.safetensors.origin.json"]
    assert modelhub("scan", "m").code == 0


def test_a_safe_pickle_is_converted(hub: Hub, tmp_path: Path) -> None:
    """A safe pickle is let in and taken in: intake converts it beside it."""
    hub.repo("org/m", {"a.ckpt": pickled(tmp_path, 3)})
    assert fetched("hf://org/m").code == 0
    assert {"m/a.ckpt", "m/a.safetensors"} <= set(files())


def test_a_digest_that_is_not_the_claimed_one(hub: Hub, tmp_path: Path) -> None:
    """Bytes that do not have the SHA-256 of their LFS pointer are not let in."""
    hub.repo("org/m", {"a.safetensors": Blob(safetensors(tmp_path, 1), claimed="a" * 64)})
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"]) == (2, "failed")
    assert "SHA-256" in unit["error"]
    assert not [name for name in files() if not name.startswith(".modelhub-quarantine/")]


def test_a_download_that_is_cut_goes_on(hub: Hub, tmp_path: Path) -> None:
    """A download that breaks off twice goes on, which is huggingface_hub's business, and is whole in the end."""
    data = safetensors(tmp_path, 1)
    hub.repo("org/m", {"a.safetensors": data})
    plan = plan_fetch("hf://org/m", ".")
    cuts = [2]

    def fault(handler, part: str) -> bool:
        if part != "file" or not cuts[0]:
            return False
        cuts[0] -= 1
        handler.bytes_of(Blob(data), {"ETag": f'"{Blob(data).etag}"'}, cut=100_000)
        return True

    hub.fault = fault
    [done] = fetch(plan)
    assert done.action == "fetched"
    assert Path("m/a.safetensors").read_bytes() == data
    assert cuts == [0]


def test_what_only_the_bytes_here_show(hub: Hub, tmp_path: Path) -> None:
    """A file that is safe from a distance and suspicious here stays in quarantine, where no walk finds it."""
    sparse_checkpoint(tmp_path / "odd.ckpt", 40, 100_000, own_name="archive/dta.pkl")
    hub.repo("org/m", {"odd.ckpt": (tmp_path / "odd.ckpt").read_bytes()})
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"], unit["verdict"]) == (1, "in quarantine", "suspicious")
    assert all(name.startswith(".modelhub-quarantine/") for name in files())
    assert modelhub("scan", ".").code == 2  # nothing is there to scan


def pipeline(tmp_path: Path) -> dict[str, bytes]:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"safety_checker": [None, None]}
    return {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": safetensors(tmp_path, 1),
        "unet/diffusion_pytorch_model.fp16.safetensors": safetensors(tmp_path, 2),
        "unet/diffusion_pytorch_model.bin": pickled(tmp_path, 1),
        "safety_checker/model.safetensors": safetensors(tmp_path, 3),
        "whole.ckpt": hostile(tmp_path),
        "README.md": b"text",
    }


@pytest.mark.parametrize(("options", "weights"), [((), ""), (("--variant", "fp16"), ".fp16")])
def test_a_pipeline(hub: Hub, tmp_path: Path, options: tuple[str, ...], weights: str) -> None:
    """Of a pipeline its components are fetched in one precision, as one folder, whole."""
    hub.repo("org/pipe", pipeline(tmp_path))
    ran = fetched("hf://org/pipe", *options)
    assert (ran.code, [unit["action"] for unit in ran.json()["units"]]) == (0, ["fetched"])
    assert files() == [
        "pipe.origin.json",
        "pipe/model_index.json",
        "pipe/unet/config.json",
        f"pipe/unet/diffusion_pytorch_model{weights}.safetensors",
    ]


def test_include(hub: Hub, tmp_path: Path) -> None:
    """``--include`` takes what its patterns fit, and nothing else."""
    hub.repo("org/m", {f"{name}.safetensors": safetensors(tmp_path, n) for n, name in enumerate("abc")})
    assert fetched("hf://org/m", "--include", "b*").code == 0
    assert [name for name in files() if name.endswith(".safetensors")] == ["m/b.safetensors"]
    assert fetched("hf://org/m", "--include", "z*").code == 2


@pytest.mark.parametrize("path", ["loras", "loras/", "loras/b.safetensors"])
def test_a_part_of_a_repository(hub: Hub, tmp_path: Path, path: str) -> None:
    """A folder of a repository, with or without a slash, or one file of it, is fetched without what lies around it."""
    hub.repo("org/m", {f"{name}.safetensors": safetensors(tmp_path, 1) for name in ("a", "loras/b", "loras2/c")})
    assert fetched(f"hf://org/m/{path}").code == 0
    assert [name for name in files() if name.endswith(".safetensors")] == ["m/loras/b.safetensors"]


def test_any_other_download(hub: Hub, tmp_path: Path) -> None:
    """A file of any server goes through the same gate; with ``--sha256`` its bytes must be those."""
    data = safetensors(tmp_path, 1)
    address = hub.put("files/x.safetensors", data)
    ran = fetched(address, "--sha256", "b" * 64)
    assert ran.code == 2
    assert "x.safetensors" not in os.listdir(".")
    assert fetched(address, "--sha256", hashlib.sha256(data).hexdigest().upper()).code == 0
    assert Path("x.safetensors").read_bytes() == data
    assert fetched(hub.put("evil.ckpt", hostile(tmp_path))).code == 1


def test_something_else_at_the_target(hub: Hub, tmp_path: Path) -> None:
    """What lies at the target already is not replaced."""
    hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    Path("m").mkdir()
    Path("m/a.safetensors").write_bytes(b"mine")
    ran = fetched("hf://org/m")
    assert (ran.code, ran.json()["units"][0]["action"]) == (2, "failed")
    assert Path("m/a.safetensors").read_bytes() == b"mine"


def test_a_full_disk_is_told_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded where it has no room."""
    hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    monkeypatch.setattr(planning, "_free", lambda folder: 1000)
    with pytest.raises(NoSpace):
        list(fetch(plan_fetch("hf://org/m", ".")))
    assert fetched("hf://org/m").code == 2
    assert files() == []


BAD = [
    "../a.safetensors", "/etc/a", "a/../b", "a//b", "a/./b", "", ".", "a\\b", "c:a", "con.safetensors", "x/NUL", "a.",
    " a", "a\x1b[0m", "a\u202egpj.safetensors", "a\u200b", "..\uff0fa", "\uff0e\uff0e/a", "\u2024\u2024/a", "a\uff3cb",
    "x" * 300, "a/" * 600 + "b", "a\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_names_that_lead_elsewhere(name: str) -> None:
    """Traversal, absolute paths, devices, look-alikes, invisible characters and over-long names are refused."""
    with pytest.raises(SourceError):
        check_name(name)


@pytest.mark.parametrize("name", ["con .safetensors", "NUL  .ckpt", "aux .x.pt", "com1\u00a0.bin"], ids=ascii)
def test_devices_before_a_space(name: str) -> None:
    """A device's name followed by spaces is the device's on Windows, whatever the extension."""
    with pytest.raises(SourceError, match="device"):
        check_name(name)


def test_names_of_one_file() -> None:
    """Two names that are one on some file system are refused together; good ones are taken."""
    check_names(["unet/model.safetensors", "ünet/模型.safetensors", "a b (1).ckpt"])
    with pytest.raises(SourceError):
        check_names(["A.safetensors", "a.safetensors"])


def test_hostile_names_are_not_planned(hub: Hub, tmp_path: Path) -> None:
    """A repository with a name that leads elsewhere is not fetched at all."""
    hub.repo("org/m", {"../../a.safetensors": safetensors(tmp_path, 1), "b.safetensors": safetensors(tmp_path, 2)})
    ran = modelhub("fetch", "hf://org/m", "--catalog", "../c.db")
    assert ran.code == 2
    assert "leads out of its folder" in ran.err
    assert files() == []


def test_what_is_chosen() -> None:
    """Twins, shards, variants and other frameworks, by their names."""
    loose = choose_loose(["x.pt", "x.safetensors", "y.pt", "notes.txt"])
    assert loose.chosen == ("x.safetensors", "y.pt")
    sharded = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
        "flax_model.msgpack",
        "modeling.py",
        ".gitattributes",
    ]
    assert choose_folder(sharded, None, None).chosen == tuple(sharded[:4])
    only_variant = ["config.json", "model.fp16.safetensors"]
    assert choose_folder(only_variant, None, None).chosen == tuple(only_variant)


def test_hidden_files_are_not_included() -> None:
    """What a scan of the folder does not look at is not put into it, whatever ``--include`` says."""
    paths = ["model_index.json", "unet/a.safetensors", "unet/.cache/evil.ckpt", ".git/x.bin", "unet/.b.safetensors"]
    choice = choose_folder(paths, None, None, ["*"])
    assert choice.chosen == ("model_index.json", "unet/a.safetensors")
    assert {why for _, why in choice.left_out} == {"a hidden file"}


def test_a_pipeline_with_a_hidden_pickle(hub: Hub, tmp_path: Path) -> None:
    """Of a pipeline no hidden folder is fetched, not even where it is asked for."""
    there = pipeline(tmp_path)
    hub.repo("org/pipe", {**there, "unet/.cache/evil.ckpt": there["whole.ckpt"]})
    wanted = ("*.json", "unet/*.safetensors", "unet/.*")
    assert fetched("hf://org/pipe", *(f"--include={each}" for each in wanted)).code == 0
    assert Path("pipe/unet/config.json").exists()
    assert not [name for name in files() if "evil" in name]


def test_many_variants_are_chosen_quickly() -> None:
    """Choosing takes time in proportion to the files: a folder of 20,000 weights is no work."""
    paths = [f"part{n}.{kind}safetensors" for n in range(10_000) for kind in ("", "fp16.")]
    assert len(choose_folder(paths, None, None).chosen) == 10_000


SYSTEM = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."


def harmless(length: int) -> bytes:
    """A pickle of *length* bytes of a text."""
    text = b"x" * (length - 8)
    return b"\x80\x02X" + len(text).to_bytes(4, "little") + text + b"."


def test_another_file_of_the_same_length_is_not_taken_for_it(hub: Hub) -> None:
    """Of a file outside the Hub only the length is known: what lies at its target already is scanned."""
    address = hub.put("z.pt", harmless(len(SYSTEM)))
    Path("z.pt").write_bytes(SYSTEM)
    ran = fetched(address)
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"], unit["verdict"]) == (1, "already there", "unsafe")


def test_what_lies_in_place_of_a_file_kept_in_git(hub: Hub) -> None:
    """Of a file that no LFS pointer claims a digest of, other bytes at its target are scanned."""
    hub.repo("org/m", {"s.pt": harmless(len(SYSTEM))})
    Path("m").mkdir()
    Path("m/s.pt").write_bytes(SYSTEM)
    ran = fetched("hf://org/m")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"], unit["verdict"]) == (1, "already there", "unsafe")


def test_what_was_added_to_a_fetched_folder(hub: Hub, tmp_path: Path) -> None:
    """A fetched folder to which somebody added a file is not called safe by the files that were fetched."""
    hub.repo("org/pipe", pipeline(tmp_path))
    assert fetched("hf://org/pipe").code == 0
    Path("pipe/unet/diffusion_pytorch_model.bin").write_bytes(SYSTEM)
    ran = fetched("hf://org/pipe")
    [unit] = ran.json()["units"]
    assert (ran.code, unit["action"], unit["verdict"]) == (1, "already there", "unsafe")


def test_salvaging_again_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    """Where the salvaged tensors have their name already, nothing is downloaded again, and nothing unsafe stays."""
    hub.repo("org/m", {"evil.ckpt": hostile(tmp_path)})
    assert fetched("hf://org/m", "--salvage").code == 0
    before, hub.seen = files(), []
    ran = fetched("hf://org/m", "--salvage")
    assert (ran.code, ran.json()["units"][0]["action"]) == (1, "failed")
    assert "exists already" in ran.json()["units"][0]["error"]
    assert [seen for seen in hub.asked("storage") if "range" not in seen.headers] == []
    assert files() == before


def test_what_cannot_be_salvaged_does_not_stay(hub: Hub) -> None:
    """An unsafe file without tensors is removed from quarantine when salvaging it fails."""
    hub.repo("org/m", {"evil.pt": SYSTEM})
    ran = fetched("hf://org/m", "--salvage")
    assert (ran.code, ran.json()["units"][0]["action"]) == (1, "failed")
    assert files() == []


def test_the_query_of_an_address_is_kept_nowhere(hub: Hub, tmp_path: Path) -> None:
    """What an address has after ``?`` may be a token: it is sent, and neither shown nor written down."""
    address = hub.put("x.safetensors", safetensors(tmp_path, 1))
    ran = fetched(f"{address}?token=SECRET#SECRET")
    assert ran.code == 0
    assert any("token=SECRET" in seen.path for seen in hub.asked("storage"))
    shown = [modelhub(*each, f"{address}?token=SECRET") for each in (["scan"], ["inspect"], ["fetch", "--dry-run"])]
    bad = f"{hub.storage}/none.safetensors?token=SECRET"
    shown += [modelhub(*each, bad) for each in (["scan", "-vv"], ["inspect"], ["fetch"], ["convert"])]
    assert [each.code for each in shown] == [0, 0, 0, 2, 2, 2, 2]
    assert not [each for each in (ran, *shown) if "SECRET" in each.out + each.err]
    note = json.loads(Path("x.safetensors.origin.json").read_text())
    assert note["address"] == address
    assert not [path for path in (*files(), "../c.db") if b"SECRET" in Path(path).read_bytes()]


def test_an_address_with_a_query_is_explained(hub: Hub) -> None:
    """``scan --explain`` asks again with the query that it does not show; of two addresses that look alike, neither."""
    address = hub.put("z.pt", SYSTEM)
    hub.fault = lambda handler, part: "token=SECRET" not in handler.path and not handler.error(403)
    ran = modelhub("scan", "--explain", f"{address}?token=SECRET")
    assert ran.code == 1
    assert ran.out.count("system") > modelhub("scan", f"{address}?token=SECRET").out.count("system")
    assert "SECRET" not in ran.out + ran.err
    ran = modelhub("scan", "--explain", f"{address}?token=SECRET", f"{address}?token=SECRET&b=2")
    assert ran.code == 1
    assert "several addresses" in ran.err
    assert "SECRET" not in ran.out + ran.err


def test_a_note_of_the_users_own_is_not_replaced(hub: Hub, tmp_path: Path) -> None:
    """A file that has the name of the note of origin and is none stays as it is, and nothing is downloaded."""
    hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    Path("m").mkdir()
    Path("m/a.safetensors.origin.json").write_text('{"mine": 1}')
    ran = fetched("hf://org/m")
    assert (ran.code, ran.json()["units"][0]["action"]) == (2, "failed")
    assert files() == ["m/a.safetensors.origin.json"]
    assert Path("m/a.safetensors.origin.json").read_text() == '{"mine": 1}'


def test_a_note_of_an_earlier_fetch_is_replaced(hub: Hub, tmp_path: Path) -> None:
    """A model that was removed can be fetched again: the note of the first time gives way."""
    repo = hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    assert fetched("hf://org/m").code == 0
    os.unlink("m/a.safetensors")
    commit = repo.commit({"a.safetensors": safetensors(tmp_path, 2), "b.txt": b"x"})
    assert fetched("hf://org/m").code == 0
    assert commit in Path("m/a.safetensors.origin.json").read_text()


def test_files_of_one_name_in_quarantine(hub: Hub) -> None:
    """What lies in quarantine stays there when another address has a file of that name."""
    first, second = SYSTEM + bytes(1 << 19), SYSTEM + bytes((1 << 19) + 1)

    def whole(handler, part: str) -> bool:  # so that it is judged when it is here
        del handler.headers["range"]
        handler.bytes_of(handler.hub.loose[handler.path[1:]], {})
        return True

    hub.fault = whole
    for address, data in (("one/evil.pt", first), ("two/evil.pt", second)):
        ran = fetched(hub.put(address, data))
        assert (ran.code, ran.json()["units"][0]["action"]) == (1, "in quarantine")
    assert {path.read_bytes() for path in Path(".modelhub-quarantine").rglob("evil.pt")} == {first, second}


def test_what_changes_after_its_scan_is_not_let_in(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that take the place of those that were scanned, as a second fetch's may, do not leave quarantine."""
    hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    real = recording.examine

    def examine(container, **options):
        examined = real(container, **options)
        Path(container.name).unlink()
        Path(container.name).write_bytes(SYSTEM)
        return examined

    monkeypatch.setattr(recording, "examine", examine)
    [done] = fetch(plan_fetch("hf://org/m", "."))
    assert done.action == "failed"
    assert "changed after it was scanned" in str(done.error)
    assert not Path("m/a.safetensors").exists()


@pytest.mark.parametrize("link", [".modelhub-quarantine", ".modelhub-quarantine/x", ".modelhub-quarantine/y/unet"])
def test_nothing_is_downloaded_through_a_link(hub: Hub, tmp_path: Path, link: str) -> None:
    """A quarantine that is a link, or has one in it, is told of; nothing is written where it leads."""
    hub.repo("org/m", {"a.safetensors": safetensors(tmp_path, 1)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path(link).parent.mkdir(parents=True, exist_ok=True)
    Path(link).symlink_to(elsewhere)
    ran = fetched("hf://org/m")
    assert (ran.code, "a link, through which nothing is downloaded" in ran.err) == (2, True)
    assert list(elsewhere.iterdir()) == []
