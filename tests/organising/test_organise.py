"""``modelhub library organise``: what goes where, what stays, and that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from modelhub.errors import ConversionError
from modelhub.organising import beside as beside_
from modelhub.organising import moving
from modelhub.organising.journal import NAME
from modelhub.organising.names_there import Names
from tests.cli.run import Ran, modelhub
from tests.syncing.files import lora, put, vae

LIBRARY = Path("lib")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELHUB_CATALOG", "c.db")
    LIBRARY.mkdir()


def lay(*files: tuple[str, bytes], dialect: str = "auto") -> None:
    """A library of these files that the catalog follows and has seen."""
    for name, data in files:
        put(LIBRARY / name, data)
    assert modelhub("library", "add", "lib", "--dialect", dialect).code == 0
    assert modelhub("library", "sync").code == 0


def organise(*options: str) -> dict[str, tuple[str, str]]:
    """What became of each file: the action, and where it is or why."""
    ran = modelhub("library", "organise", "lib", "--format", "json", *options)
    assert ran.code in (0, 2), ran.err
    root = os.path.abspath("lib")
    return {
        os.path.relpath(each["path"], root): (
            each["action"],
            os.path.relpath(each["target"], root) if each["target"] else each["reason"],
        )
        for each in ran.json()["files"]
    }


def listing() -> dict[str, bytes]:
    return {os.path.relpath(path, LIBRARY): path.read_bytes() for path in LIBRARY.rglob("*") if path.is_file()}


def resync() -> dict[str, int]:
    ran: Ran = modelhub("library", "sync", "--format", "json")
    return {kind: number for kind, number in ran.json()["counts"].items() if number}


def test_files_go_where_they_belong_with_what_stands_beside_them() -> None:
    """A model and its side files and previews move together; the catalog follows, and a sync finds nothing changed."""
    beside = ("a.png", "a.preview.webp", "a.civitai.info", "a.safetensors.rgthree-info.json", "a.txt", "a.yaml")
    lay(("x/a.safetensors", lora(1)), ("x/a.v2.safetensors", vae()), *((f"x/{name}", b"!") for name in beside))
    put(LIBRARY / "x/a.v2.png", b"of the other")
    put(LIBRARY / "x/ab.png", b"of nobody")
    modelhub("tag", "a.safetensors", "mine")
    modelhub("library", "sync")
    before = listing()
    claimed = _side_files()
    assert {os.path.basename(path) for path in claimed} == set(beside)
    planned = organise("--dry-run")
    assert listing() == before
    assert set(planned) == set(before) - {"x/ab.png"}
    assert {action for action, _ in planned.values()} == {"would move"}
    assert organise() == {path: ("moved", target) for path, (_, target) in planned.items()}
    after = listing()
    for name in ("a.safetensors", *beside):
        assert after[f"lora/sd-1/{name}"] == before[f"x/{name}"]
    assert after["vae/unknown/a.v2.png"] == b"of the other"
    assert after["x/ab.png"] == b"of nobody"
    assert len(after) == len(before)
    moved = {path.replace("/x/", "/lora/sd-1/"): dialect for path, dialect in claimed.items()}
    assert _side_files() == moved
    ran = modelhub("library", "sync")
    assert ("2 unchanged" in ran.err, "side files" in ran.err) == (True, False)
    assert _side_files() == moved
    (entry,) = modelhub("list", "--tag", "mine", "--format", "jsonl").json_lines()
    assert entry["path"] == os.path.abspath("lib/lora/sd-1/a.safetensors")
    assert {action for action, _ in organise().values()} == {"in place"}
    assert not (LIBRARY / NAME).exists()


def _side_files() -> dict[str, str]:
    (record,) = modelhub("show", "a.safetensors", "--format", "json").json()["records"]
    return {each["path"]: each["origin"] for each in record["claims"] if each["path"] is not None}


def test_clashes_and_twins_stay() -> None:
    """Where a name is taken, in whatever case, the file stays; one with the same bytes is called a twin."""
    lay(
        ("lora/sd-1/Taken.safetensors", lora(1)),
        ("x/taken.safetensors", lora(2)),
        ("x/b.safetensors", lora(3)),
        ("y/b.safetensors", lora(3)),
        ("z/B.safetensors", lora(4)),
    )
    modelhub("hash", "--all")
    before = listing()
    answers = organise()
    assert answers["x/taken.safetensors"] == ("clash", "lora/sd-1/taken.safetensors is taken")
    assert answers["x/b.safetensors"] == ("moved", "lora/sd-1/b.safetensors")
    assert answers["y/b.safetensors"] == ("twin", "the same bytes as lora/sd-1/b.safetensors")
    assert answers["z/B.safetensors"][0] == "clash"
    before["lora/sd-1/b.safetensors"] = before.pop("x/b.safetensors")
    assert listing() == before


def test_a_side_file_that_is_in_the_way() -> None:
    """A model stays with its side files where one of those would find its name taken."""
    lay(("x/a.safetensors", lora(1)), ("x/a.png", b"mine"))
    put(LIBRARY / "lora/sd-1/a.png", b"somebody's")
    before = listing()
    assert organise() == {"x/a.safetensors": ("clash", "lora/sd-1/a.png is taken")}
    assert listing() == before


def test_what_shares_a_side_file_goes_together_or_not_at_all() -> None:
    """Two models of one name, which one preview stands beside, are parted from neither."""
    lay(("x/a.safetensors", lora(1)), ("x/a.pt", vae()), ("x/a.png", b"!"))
    assert {action for action, _ in organise().values()} == {"held"}
    assert organise("--by", "all/{name}")["x/a.png"] == ("moved", "all/a.png")
    assert sorted(listing()) == ["all/a.png", "all/a.pt", "all/a.safetensors"]


def test_a_name_that_becomes_free() -> None:
    """A file takes the place of one that goes elsewhere in the same run."""
    lay(("lora/sd-1/a.safetensors", vae()), ("x/a.safetensors", lora(1)))
    organise()
    assert listing() == {"vae/unknown/a.safetensors": vae(), "lora/sd-1/a.safetensors": lora(1)}
    assert resync() == {"unchanged": 2}


def test_what_nobody_identified_stays_unless_it_is_asked_for() -> None:
    """Error pages, broken downloads and unknown files are moved only by --unidentified."""
    lay(("page.ckpt", b"<html>no</html>"), ("cut.safetensors", lora(1)[:-5]))
    assert {action for action, _ in organise().values()} == {"unidentified"}
    assert organise("--unidentified")["page.ckpt"] == ("moved", "unknown/unknown/page.ckpt")


def test_what_is_held() -> None:
    """Links and what they lead to, files changed since the last sync, and folders that lack a part of their model."""
    lay(
        ("parts/model-00001-of-00002.safetensors", lora(1)),
        ("parts/model.safetensors.index.json", b"{}"),
        ("real.safetensors", lora(3)),
        ("new.safetensors", lora(4)),
    )
    os.symlink("real.safetensors", LIBRARY / "link.safetensors")
    modelhub("library", "sync")
    put(LIBRARY / "new.safetensors", lora(5), mtime=10**18)
    answers = organise()
    assert {path: action for path, (action, _) in answers.items()} == {
        "parts": "unidentified",
        "real.safetensors": "held",
        "link.safetensors": "held",
        "new.safetensors": "held",
    }
    assert "link leads to it" in answers["real.safetensors"][1]
    assert "changed" in answers["new.safetensors"][1]


def test_what_another_library_links_to() -> None:
    """What a link leads to stays also where the link is in another library."""
    lay(("x/a.safetensors", lora(1)), ("x/b.safetensors", lora(2)))
    Path("other").mkdir()
    os.symlink(os.path.abspath("lib/x/a.safetensors"), "other/a.safetensors")
    assert modelhub("library", "add", "other").code == 0
    assert modelhub("library", "sync").code == 0
    answers = organise()
    assert answers["x/a.safetensors"] == ("held", "a symbolic link leads to it")
    assert answers["x/b.safetensors"][0] == "moved"


@pytest.mark.parametrize("name", ["a.png", "a.vae.safetensors"])
def test_a_link_beside_a_model(name: str) -> None:
    """A link beside a model would lead to nothing elsewhere: it stays, and so does the model."""
    lay(("x/a.safetensors", lora(1)), ("x/b.safetensors", lora(2)))
    put(LIBRARY / "x/pictures/1", vae())
    os.symlink("pictures/1", LIBRARY / "x" / name)
    modelhub("library", "sync")
    answers = organise()
    assert answers["x/a.safetensors"] == ("held", f"{name}, which stands beside it, is a symbolic link")
    assert answers["x/b.safetensors"][0] == "moved"
    assert (LIBRARY / "x" / name).read_bytes() == vae()


def test_a_folder_that_is_a_link_out_of_the_library() -> None:
    """Nothing is moved through a link out of the library, neither out of it nor into it."""
    Path("outside").mkdir()
    Path("elsewhere").mkdir()
    os.symlink(os.path.abspath("outside"), LIBRARY / "x")
    os.symlink(os.path.abspath("elsewhere"), LIBRARY / "vae")
    lay(("x/a.safetensors", lora(1)), ("y/v.safetensors", vae()), ("y/b.safetensors", lora(2)))
    answers = organise()
    assert answers["x/a.safetensors"] == ("held", "a link to its folder leads out of the library")
    assert answers["y/v.safetensors"] == ("held", "a link in vae/unknown leads out of the library")
    assert answers["y/b.safetensors"][0] == "moved"
    assert os.listdir("outside") == ["a.safetensors"]
    assert os.listdir("elsewhere") == []


def test_each_folder_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models lie in a folder, its names are gone through a few times, not once for each."""
    lay(*((f"x/{number}.safetensors", lora(number)) for number in range(20)))
    asked: list[str] = []
    of = Names.of
    monkeypatch.setattr(Names, "of", lambda names, folder: [asked.append(folder), of(names, folder)][1])
    organise("--dry-run")
    assert asked.count(os.path.abspath("lib/x")) <= 2


def test_a_folder_of_an_adapter() -> None:
    """A PEFT folder is one model, and moves with all that is in it."""
    lay(("x/peft/adapter_model.safetensors", lora(2)), ("x/peft/adapter_config.json", b"{}"))
    assert organise() == {"x/peft": ("moved", "lora/sd-1/peft")}
    assert sorted(listing()) == [f"lora/sd-1/peft/adapter_{name}" for name in ("config.json", "model.safetensors")]
    assert resync() == {"unchanged": 1}


def test_a_folder_that_is_one_model() -> None:
    """A diffusers folder moves as a whole."""
    unet = ("unet/diffusion_pytorch_model.safetensors", vae(3))
    files = (("model_index.json", b'{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}'), unet)
    lay(*((f"down/loaded/{name}", data) for name, data in files))
    (answer,) = organise("--unidentified", "--by", "folders/{name}").values()
    assert answer == ("moved", "folders/loaded")
    assert listing() == {f"folders/loaded/{name}": data for name, data in files}
    assert resync() == {"unchanged": 1}


def test_a_folder_does_not_go_into_itself() -> None:
    """A folder that is one model is no folder for others, and least of all for itself."""
    lay(
        ("vae/config.json", b'{"_class_name": "AutoencoderKL"}'),
        ("vae/diffusion_pytorch_model.safetensors", vae(3)),
        ("x/v.safetensors", vae(1)),
    )
    before = listing()
    answers = organise()
    assert answers == dict.fromkeys(("vae", "x/v.safetensors"), ("clash", "vae is a folder that is one model"))
    assert listing() == before
    assert not (LIBRARY / "vae/unknown").exists()
    assert resync() == {"unchanged": 2}
    vae_, inside = (os.path.abspath(f"lib/{name}") for name in ("vae", "vae/unknown/vae"))
    with pytest.raises(ConversionError, match="lies in the folder"):
        moving.move(vae_, inside, moving.stamp(vae_))
    assert listing() == before
    assert not (LIBRARY / "vae/unknown").exists()


def test_a_folder_that_comes_to_lie_above_a_file() -> None:
    """Nor does a file go into a folder that the same run puts there."""
    index = b'{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}'
    lay(
        ("down/sd-1/model_index.json", index),
        ("down/sd-1/unet/diffusion_pytorch_model.safetensors", vae(3)),
        ("y/a.safetensors", lora(1)),
    )
    assert modelhub("set", "a", "variant=sd-1").code == 0
    answers = organise("--unidentified", "--by", "all/{variant}/{name}")
    assert answers["down/sd-1"] == ("moved", "all/sd-1")
    assert answers["y/a.safetensors"] == ("clash", "all/sd-1 is a folder that is one model")


def test_the_folders_of_comfyui() -> None:
    """With a dialect each kind has its folder; what lies anywhere below it is right, and a template orders it."""
    lay(
        ("models/checkpoints/a.safetensors", lora(1)),
        ("models/loras/mine/b.safetensors", lora(2)),
        ("models/vae/c.safetensors", vae()),
        ("custom_nodes/x/models/d.safetensors", lora(3)),
        dialect="comfyui",
    )
    planned = organise("--dry-run")
    assert planned["models/checkpoints/a.safetensors"] == ("would move", "models/loras/a.safetensors")
    assert planned["models/loras/mine/b.safetensors"][0] == planned["models/vae/c.safetensors"][0] == "in place"
    answers = organise("--by", "{architecture}/{name}")
    assert answers["models/loras/mine/b.safetensors"] == ("moved", "models/loras/sd-1/b.safetensors")
    assert resync() == {"unchanged": 3}


def test_the_folders_of_a1111() -> None:
    """A checkpoint's own VAE, and its picture, stay beside what they belong to; a plain library may take the web UI's
    folders."""
    lay(("a.safetensors", lora(1)), ("a.vae.safetensors", vae()), ("a.vae.png", b"!"), ("b.safetensors", vae(2)))
    organise("--dialect", "a1111")
    assert sorted(listing()) == [
        "models/Lora/a.safetensors",
        "models/Lora/a.vae.png",
        "models/Lora/a.vae.safetensors",
        "models/VAE/b.safetensors",
    ]


@pytest.mark.parametrize("dialect", ["invokeai", "hf-cache"])
def test_libraries_of_programs_that_keep_track(dialect: str) -> None:
    """What a program's own database or links lead to is not moved."""
    lay(dialect=dialect)
    ran = modelhub("library", "organise", "lib")
    assert (ran.code, "lead to nothing" in ran.err) == (2, True)


def test_names_are_made_fit() -> None:
    """A record's own title becomes a name, whatever stands in it; a digest that is not known holds the file."""
    lay(("x/a.safetensors", lora(1)), ("x/b.safetensors", lora(2)))
    modelhub("set", "a", "name=../../Evil: CON")
    modelhub("set", "b", "name=" + "x" * 250)
    organise("--by", "{title}")
    assert sorted(listing()) == ["-..-Evil- CON.safetensors", "x" * 243 + ".safetensors"]
    assert {why for _, why in organise("--by", "{digest}").values()} == {
        "its digest is not known: 'modelhub hash' computes it"
    }


def test_another_spelling_of_a_folder_is_used() -> None:
    """A folder that is there in another case is the folder; a file in a folder's place is a clash."""
    lay(("LoRA/SD-1/z.safetensors", lora(9)), ("x/a.safetensors", lora(1)), ("x/v.safetensors", vae()))
    put(LIBRARY / "vae", b"a file")
    answers = organise()
    assert answers["x/a.safetensors"] == ("moved", "LoRA/SD-1/a.safetensors")
    assert answers["x/v.safetensors"] == ("clash", "vae/unknown: a file has the name of a folder")


def test_another_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Across file systems a file is copied, compared and removed, with its times, and is proven to be the same."""

    def other_disk(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    lay(("x/a.safetensors", lora(1)), ("x/a.png", b"!"))
    os.utime(LIBRARY / "x/a.png", ns=(10**18, 10**18))
    monkeypatch.setattr(moving, "rename_to_free_name", other_disk)
    organise()
    assert sorted(listing()) == ["lora/sd-1/a.png", "lora/sd-1/a.safetensors"]
    assert os.stat(LIBRARY / "lora/sd-1/a.png").st_mtime_ns == 10**18
    assert resync() == {"unchanged": 1}


def test_a_move_that_fails_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file cannot be moved, those that had been moved with it are where they were, and the rest goes on."""
    lay(("x/a.safetensors", lora(1)), ("x/a.png", b"!"), ("y/b.safetensors", lora(2)))
    rename = moving.rename_to_free_name

    def refuse(source: str, target: str) -> None:
        if source.endswith("x/a.png"):
            raise OSError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(moving, "rename_to_free_name", refuse)
    answers = organise()
    assert answers["x/a.safetensors"][0] == answers["x/a.png"][0] == "failed"
    assert sorted(listing()) == ["lora/sd-1/b.safetensors", "x/a.png", "x/a.safetensors"]
    assert modelhub("library", "organise", "lib").code == 2
    assert resync() == {"unchanged": 2}


@pytest.mark.parametrize("copying", [False, True])
def test_a_name_that_may_not_be_taken_away(monkeypatch: pytest.MonkeyPatch, copying: bool) -> None:
    """Where the old name of a file has to stay, it gets no other."""

    def other_disk(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def refuse(path: str, *args: object, **options: object) -> None:
        if str(path).endswith("x/a.safetensors"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, *args, **options)  # type: ignore[arg-type]

    lay(("x/a.safetensors", lora(1)))
    if copying:
        monkeypatch.setattr(moving, "rename_to_free_name", other_disk)
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", refuse)
    assert organise()["x/a.safetensors"][0] == "failed"
    assert listing() == {"x/a.safetensors": lora(1)}
    assert os.stat(LIBRARY / "x/a.safetensors").st_nlink == 1


def test_a_name_that_is_taken_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program puts in a file's way between plan and move is not overwritten."""
    lay(("x/a.safetensors", lora(1)))
    real = moving.stamp

    def late(path: str) -> moving.Stamp:
        put(LIBRARY / "lora/sd-1/a.safetensors", b"somebody's")
        return real(path)

    monkeypatch.setattr("modelhub.organising.run.stamp", late)
    assert organise()["x/a.safetensors"][0] == "failed"
    assert listing() == {"x/a.safetensors": lora(1), "lora/sd-1/a.safetensors": b"somebody's"}


def test_a_journal_that_somebody_else_wrote() -> None:
    """A journal comes with a disk: one that leads outside, or to files that are not as it says, moves nothing."""
    lay(("x/a.safetensors", lora(1)))
    Path("outside").write_bytes(b"precious")
    st = os.stat("outside")
    mine = os.stat(LIBRARY / "x/a.safetensors")
    lines = [
        [["../outside", "inside", [st.st_size, st.st_mtime_ns, st.st_ino, False], True]],
        [["x/a.safetensors", "../out", [mine.st_size, mine.st_mtime_ns, mine.st_ino, False], True]],
        [["x/a.safetensors", "b", [1, 2, 3, False], True]],
    ]
    for line in (*map(json.dumps, lines), "[[]]", "{}", "7", "[[1,2,3,4]]", "\0"):
        (LIBRARY / NAME).write_text(line + "\n")
        modelhub("library", "organise", "lib", "--by", "x/{name}")
        assert listing() == {"x/a.safetensors": lora(1)}
        assert Path("outside").read_bytes() == b"precious"


@pytest.mark.parametrize("link", ["s", "later/s"])
def test_a_journal_that_leads_through_a_link(link: str) -> None:
    """Nor does one get out by a link that lies in the library, or that its own steps put there."""
    lay(("done.png", b"!"), ("payload", b"evil"))
    Path("outside").mkdir()
    (LIBRARY / "now").mkdir()
    os.symlink(os.path.abspath("outside"), LIBRARY / "s")
    os.symlink(os.path.abspath("outside"), LIBRARY / "now/s")
    (LIBRARY / NAME).write_text(
        json.dumps(
            [
                ["gone.png", "done.png", moving.stamp("lib/done.png"), False],
                ["now", "later", moving.stamp("lib/now"), False],
                ["payload", f"{link}/payload", moving.stamp("lib/payload"), False],
            ]
        )
        + "\n"
    )
    modelhub("library", "organise", "lib")
    assert (LIBRARY / "later").is_dir()
    assert os.listdir("outside") == []
    assert (LIBRARY / "payload").read_bytes() == b"evil"


@pytest.mark.parametrize(
    "line",
    [
        '[["x/a.safetensors", "b", [Infinity, 1, 1, false], true]]',
        "[" * 200_000,
        '[["gone", "b", [1, 1, 1, false], true], ["\\ud800", "c", [1, 2, 3, false], true]]',
    ],
)
def test_a_journal_that_is_none(line: str) -> None:
    """Whatever stands in a journal, it is read or passed over in one sentence."""
    lay(("x/a.safetensors", lora(1)), ("b", b"!"))
    os.utime(LIBRARY / "b", ns=(1, 1))
    (LIBRARY / NAME).write_text(line + "\n")
    ran = modelhub("library", "organise", "lib")
    assert (ran.code, ran.err.count("moved")) == (0, 1)
    assert listing() == {"lora/sd-1/a.safetensors": lora(1), "b": b"!"}


def test_one_at_a_time() -> None:
    """While a process organises a library, another one is told so."""
    from modelhub.organising.journal import Journal

    lay(("x/a.safetensors", lora(1)))
    with Journal(os.path.abspath("lib")):
        ran = modelhub("library", "organise", "lib")
    assert (ran.code, "another process" in ran.err) == (2, True)
    assert modelhub("library", "organise", "lib").code == 0


def test_beside() -> None:
    """Only a whole name counts."""
    names = ["a.v2.png", "a.png", "a.b.json", "a", "a.exe", "A.png", "a.v2.ckpt.preview.png", "a.preview.mp4"]
    found = dict(beside_.beside(names, ["a.ckpt", "a.v2.ckpt"]))
    assert found == {
        "a.v2.png": ("a.v2.ckpt",),
        "a.png": ("a.ckpt",),
        "a.v2.ckpt.preview.png": ("a.v2.ckpt",),
        "a.preview.mp4": ("a.ckpt",),
    }
