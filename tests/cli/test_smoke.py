"""``modelhub smoke``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelhub.db import Catalog, Query
from modelhub.samples.runnable import healthy, healthy_vae, save
from modelhub.samples.runnable_flows import healthy_flow
from modelhub.smoke import SmokeResult
from modelhub.smoke.spec import Check
from modelhub.trials import to_test
from tests.cli.run import modelhub, process
from tests.smoke.adapters import adapter
from tests.smoke.controls import controlnet, t2i_adapter, under_diffusers_names
from tests.smoke.flows import as_folder
from tests.smoke.upscalers import compact

Make = Callable[..., None]

SMALL = ("--device", "cpu", "--dtype", "fp32", "--size", "64")


def test_a_checkpoint_is_tried_out() -> None:
    """The real command, worker and libraries make a line, a picture and a page; a broken file stops nothing."""
    save(healthy("sd-1"), Path("good.safetensors"))
    whole = Path("good.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    options = ("--device", "cpu", "--dtype", "fp32", "--size", "64", "--images", "pictures", "--report", "page.html")
    done = process("smoke", *options, "cut.safetensors", "good.safetensors")
    out = done.stdout.decode()
    assert done.returncode == 2, (out, done.stderr.decode())
    lines = out.splitlines()
    assert lines[0] == "not testable  cut.safetensors  checkpoint sd-1"
    assert lines[1].startswith("    its scan says unknown: the file is cut off: ")
    assert lines[2:4] == ["passed        good.safetensors  checkpoint sd-1", "    it generates"]
    assert re.search(r"    \d+\.\d s, \d+\.\d MB of memory, cpu \(\d+ threads\), float32, 4 steps at 64 px", lines[4])
    (picture,) = Path("pictures").iterdir()
    assert picture.name == "002-good.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    page = Path("page.html").read_text()
    assert page.count("<article") == 2
    assert "data:image/png;base64," in page
    assert not re.search(r"(?:src|href)='?https?:", page)


@pytest.mark.usefixtures("worker_within")
def test_a_folder_is_tried_out_through_our_own_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a diffusers folder only the weights are loaded: its configurations decide nothing, and one whose index
    names a module, which diffusers would import, is refused."""
    save(healthy("sd-1"), Path("good.safetensors"))
    assert modelhub("convert", "good.safetensors", "folder", "--layout", "diffusers").code == 0
    for name in ("unet/config.json", "vae/config.json", "text_encoder/config.json"):
        Path("folder", name).write_text('{"_class_name": "AutoencoderKL", "block_out_channels": [1]}')
    ran = modelhub("smoke", *SMALL, "--format", "json", "folder")
    (report,) = ran.json()["reports"]
    assert (ran.code, report["outcome"], report["sentence"]) == (0, "passed", "it generates")
    assert {check["outcome"] for check in report["checks"]} == {"passed"}
    assert report["facts"]["tokenizer"] == "stand-in"
    assert report["facts"]["load"]["missing"]["count"] == 0
    Path("marking.py").write_text('open("MARK", "w")\nclass Pipeline: ...\n')
    monkeypatch.syspath_prepend(str(Path.cwd()))
    parts = ("unet", "vae", "text_encoder", "scheduler")
    index = {"_class_name": ["marking", "Pipeline"], **{name: ["marking", "Pipeline"] for name in parts}}
    Path("folder/model_index.json").write_text(json.dumps(index))
    ran = modelhub("smoke", "folder")
    assert (ran.code, Path("MARK").exists()) == (2, False)
    assert "its scan says suspicious: the pipeline's class is not one of diffusers' own" in ran.out


def test_one_sealed_worker_runs_a_library() -> None:
    """Every kind of one catalog goes through one process, what lacks parts or is put on a base with another of it.

    Sealed, it reads T5's tokenizer, the only file beside the weights that is read: a configuration that lies decides
    nothing; and it imports spandrel, for an upscaler, when nothing can be unpickled any more.
    """
    as_folder(healthy_flow("flux-schnell"), Path("flux"))
    Path("flux/transformer/config.json").write_text('{"_class_name": "UNet2DConditionModel", "num_layers": 99}')
    shutil.copytree("flux/transformer", "alone")
    save(healthy("sd-1"), Path("base.safetensors"))
    save(adapter(), Path("style.safetensors"))
    save(controlnet(), Path("edges.safetensors"))
    save(t2i_adapter(), Path("lines.safetensors"))
    save(compact(size=0.001), Path("larger.safetensors"))
    assert modelhub("intake", "--catalog", "c.db", ".").code == 0
    options = ("--device", "cpu", "--dtype", "fp32", "--size", "64", "--steps", "2", "--catalog", "c.db")
    ran = modelhub("smoke", *options, "--format", "json", "--all", "--untested")
    reports = {Path(report["path"]).stem: report for report in ran.json()["reports"]}
    outcomes = {name: report["outcome"] for name, report in reports.items()}
    assert set(outcomes.values()) <= {"passed", "suspect"}, outcomes  # small images are nothing to judge flows by
    assert (ran.code, reports.keys()) == (0, {"flux", "alone", "base", "style", "edges", "lines", "larger"})
    assert reports["alone"]["kind"] == "diffusion-model"
    assert reports["alone"]["facts"]["base"] == str(Path("flux").resolve())
    assert reports["alone"]["checks"] == reports["flux"]["checks"]
    assert reports["style"]["facts"]["base"] == str(Path("base.safetensors").resolve())
    for name in ("style", "edges", "lines"):
        (effect,) = (check for check in reports[name]["checks"] if check["name"] == "adapter.effect")
        assert effect["outcome"] == "passed"
    assert reports["larger"]["sentence"] == "it gives pictures back"


@pytest.mark.usefixtures("worker_within")
def test_a_base_is_named_by_its_file_or_its_record() -> None:
    """An adapter is put on what --base names, whatever else the catalog has."""
    for name in ("older", "base"):
        save(healthy("sd-1") | {f"{name}.weight": torch.ones(1)}, Path(f"{name}.safetensors"))
        assert modelhub("intake", "--catalog", "c.db", f"{name}.safetensors").code == 0
    save(adapter(), Path("style.safetensors"))
    for named in ("base.safetensors", "base"):
        options = (*SMALL, "--steps", "1", "--catalog", "c.db", "--format", "json", "--base", named)
        ran = modelhub("smoke", *options, "style.safetensors")
        (report,) = ran.json()["reports"]
        assert (ran.code, report["outcome"]) == (0, "passed"), report["sentence"]
        assert os.path.abspath(report["facts"]["base"]) == str(Path("base.safetensors").resolve())


def test_what_is_not_tested_is_said(make: Make) -> None:
    """Pickles, malicious ones, pages and models of other kinds are not loaded, each for a reason; the code is 2."""
    make("safe.pt", "unsafe.pt", "page.safetensors", "safe.safetensors")
    ran = modelhub(
        "smoke", "--format", "json", "safe.pt", "unsafe.pt", "page.safetensors", "safe.safetensors", "no.ckpt"
    )
    assert ran.code == 2
    document = ran.json()
    assert (document["schema"], document["complete"]) == ("modelhub.smoke/1", False)
    assert [(report["outcome"], report["sentence"]) for report in document["reports"]] == [
        ("not testable", "only safetensors are loaded: convert it first (modelhub convert)"),
        ("not testable", "it is unsafe, and not loaded"),
        ("not testable", "only safetensors are loaded: convert it first (modelhub convert)"),
        ("not testable", "there is no test yet for what was not recognised"),
        ("not testable", "no such file or folder"),
    ]


def test_a_pickle_beside_the_weights_keeps_a_folder_from_being_loaded(make: Make) -> None:
    """A malicious .bin in a folder is never opened: the whole folder is refused."""
    make("unsafe.pt")
    save(healthy("sd-1"), Path("good.safetensors"))
    assert modelhub("convert", "good.safetensors", "folder", "--layout", "diffusers").code == 0
    shutil.copy("unsafe.pt", "folder/unet/diffusion_pytorch_model.bin")
    ran = modelhub("smoke", "folder")
    assert (ran.code, ran.out.splitlines()[1]) == (2, "    it is unsafe, and not loaded")


def test_missing_tensors_need_no_worker() -> None:
    """A model that lacks tensors has failed, with their names, before anything is started."""
    weights = healthy_vae()
    del weights["decoder.mid.block_1.conv1.weight"]
    save(weights, Path("vae.safetensors"))
    ran = modelhub("smoke", "vae.safetensors")
    assert ran.code == 1
    assert "there is no tensor 'decoder.mid.block_1.conv1.weight'" in ran.out


@pytest.mark.usefixtures("worker_within")
def test_results_are_kept_in_the_catalog() -> None:
    """Each is a row with its checks and image, which show tells; a second run tests what is left, and compares."""
    save(healthy("sd-1"), Path("one.safetensors"))
    save(healthy_vae(), Path("two.safetensors"))
    options = ("--catalog", "c.db", *SMALL, "--format", "json")
    assert modelhub("intake", "--catalog", "c.db", ".").code == 0
    ran = modelhub("smoke", *options, "--accept", "one")
    assert [each["outcome"] for each in ran.json()["reports"]] == ["passed"]
    assert ran.err == "accepted: 1 of 1\n"
    (run,) = modelhub("show", "--catalog", "c.db", "--format", "json", "one").json()["records"][0]["smoke_runs"]
    assert (run["outcome"], run["accepted"], run["asked"]["seed"]) == ("passed", True, 0)
    image = Path(run["image_path"]).read_bytes()
    assert run["image_sha256"] == hashlib.sha256(image).hexdigest()
    assert {"name": "image.flat", "outcome": "passed"}.items() <= next(
        each for each in run["checks"] if each["name"] == "image.flat"
    ).items()
    assert run["facts"]["versions"].keys() >= {"torch", "diffusers"}
    ran = modelhub("smoke", *options, "--all", "--untested")
    assert [Path(each["path"]).name for each in ran.json()["reports"]] == ["two.safetensors"]
    ran = modelhub("smoke", *options, "--all", "--kind", "checkpoint")
    (report,) = ran.json()["reports"]
    assert {"name": "image.reference", "outcome": "passed", "value": 0}.items() <= next(
        each for each in report["checks"] if each["name"] == "image.reference"
    ).items()
    shown = modelhub("show", "--catalog", "c.db", "one").out
    assert shown.count("smoke test") == 2
    assert "it generates" in shown
    assert modelhub("smoke", *options, "--all", "--untested").code == 0
    shutil.copy("two.safetensors", "three.safetensors")
    ran = modelhub("smoke", *options, "--accept", "three.safetensors")
    assert ran.err.startswith("accepted: 0 of 1; the others failed, ")


def test_what_is_tested_of_a_catalog(make: Make) -> None:
    """--all takes folders of one model of whatever kind, and counts what it leaves out, by why."""
    kinds = {
        "canny": under_diffusers_names(controlnet()),
        "autoencoder": healthy_vae(),
        "larger": compact(size=0.001),
    }
    for name, weights in kinds.items():
        Path(name).mkdir()
        save(weights, Path(name, "diffusion_pytorch_model.safetensors"))
        Path(name, "config.json").write_text('{"_class_name": "Anything"}')
    for name, size in (("pickled", 0.001), ("converted", 1.0)):
        torch.save({key: tensor.half() for key, tensor in compact(size=size).items()}, f"{name}.pth")
    Path("cut.safetensors").write_bytes(Path("autoencoder/diffusion_pytorch_model.safetensors").read_bytes()[:-1])
    assert modelhub("intake", "--catalog", "c.db", "converted.pth").code == 0
    assert modelhub("intake", "--catalog", "c.db", "--no-convert", *kinds, "pickled.pth", "cut.safetensors").code == 2
    with Catalog.open("c.db") as catalog:
        found, left_out = to_test(catalog, Query())
    assert [entry.kind for entry in found] == ["vae", "controlnet", "upscaler", "upscaler"]
    assert left_out == {"no safetensors (modelhub convert)": 1, "not called safe by a scan": 1}
    ran = modelhub("smoke", "--catalog", "c.db", "--all", "--kind", "vae", "--architecture", "none")
    assert (ran.code, ran.err) == (2, "nothing to test: no record fits\n")


@pytest.mark.usefixtures("worker_within")
def test_two_models_are_compared() -> None:
    """The same prompt and noise with both, how alike the images are, and a page of them."""
    save(healthy("sd-1"), Path("a.safetensors"))
    other = healthy("sd-1")
    other["first_stage_model.decoder.conv_out.bias"] += 0.5
    save(other, Path("b.safetensors"))
    options = (*SMALL, "--prompt", "a lake", "--page", "page.html")
    ran = modelhub("compare", "a.safetensors", "b.safetensors", *options, "--format", "json")
    document = ran.json()
    (pair,) = document["pairs"]
    assert (ran.code, document["complete"], pair["prompt"]) == (0, True, "a lake")
    assert pair["alike"]["bits"] <= 64
    assert 0 < pair["alike"]["ssim"] < 0.999
    assert [pair[name]["outcome"] for name in ("first", "second")] == ["passed", "failed"]
    assert "image.reference" not in str(pair["second"]["checks"])
    assert Path("page.html").read_text().count("data:image/png;base64,") == 2


@pytest.mark.usefixtures("worker_within")
def test_two_vaes_are_compared() -> None:
    """What each gives back of the drawn pictures is its image: those of equal VAEs are alike, and the code is 0."""
    save(healthy_vae(), Path("a.safetensors"))
    shutil.copy("a.safetensors", "b.safetensors")
    options = (*SMALL, "--prompt", "a lake")
    ran = modelhub("compare", "a.safetensors", "b.safetensors", *options, "--format", "json")
    (pair,) = ran.json()["pairs"]
    assert ran.code == 0
    assert pair["alike"]["bits"] <= 2
    assert pair["alike"]["ssim"] > 0.99


class Png(bytes):
    """An image that tells how many of them are held."""

    held = 0

    def __new__(cls) -> Png:
        Png.held += 1
        return super().__new__(cls, b"\x89PNG")

    def __del__(self) -> None:
        Png.held -= 1


def test_a_page_grows_with_its_results(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    """Each result is on it when the next is tried, nothing is written twice, and no image is held after its result."""
    make("safe.safetensors")
    names = [shutil.copy("safe.safetensors", f"{name}.safetensors") for name in "abc"]
    seen = []

    def prepared(path: str, *_: object) -> SmokeResult:
        page = Path("page.html")
        seen.append((Png.held, page.read_text().count("<article"), page.stat().st_ino))
        return SmokeResult(path, "passed", "so it is", image=Png())

    monkeypatch.setattr("modelhub.trials.prepare", prepared)
    ran = modelhub("smoke", "--report", "page.html", *names)
    assert ran.code == 0
    assert [each[:2] for each in seen] == [(0, 0), (0, 1), (0, 2)]
    assert {each[2] for each in seen} == {Path("page.html").stat().st_ino}
    page = Path("page.html").read_text()
    assert (page.count("<article"), page.count("3 passed")) == (3, 1)


OUTCOMES = {"passed": (0, 0), "suspect": (0, 1), "failed": (1, 1), "not testable": (2, 2)}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_exit_code_says_what_came_of_it(monkeypatch: pytest.MonkeyPatch, make: Make, outcome: str) -> None:
    """0 for what passed, 1 from --fail-on on, 2 for what could not be tested."""
    make("safe.safetensors")
    made = SmokeResult("safe.safetensors", outcome, "so it is")  # type: ignore[arg-type]
    monkeypatch.setattr("modelhub.trials.prepare", lambda *_: made)
    assert modelhub("smoke", "safe.safetensors").code == OUTCOMES[outcome][0]
    assert modelhub("smoke", "--fail-on", "suspect", "safe.safetensors").code == OUTCOMES[outcome][1]


def test_a_page_holds_what_files_say_as_text(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    """Names and sentences that come from files cannot write HTML into the report."""
    make("safe.safetensors")
    check = Check("keys.missing", "failed", 1, "= 0", "there is no tensor '<script>x</script>'")
    made = SmokeResult("<img src=x>", "failed", check.sentence, checks=(check,))
    monkeypatch.setattr("modelhub.trials.prepare", lambda *_: made)
    assert modelhub("smoke", "--report", "page.html", "safe.safetensors").code == 1
    page = Path("page.html").read_text()
    assert "<script" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;" in page


def test_wrong_usage(make: Make) -> None:
    """A size that latents do not divide, no place for the page and no vocabulary are refused before anything runs."""
    make("safe.safetensors")
    assert modelhub("smoke", "--size", "100", "safe.safetensors").code == 2
    for page in ("nowhere/page.html", "safe.safetensors"):
        before = Path("safe.safetensors").read_bytes()
        ran = modelhub("smoke", "--report", page, "safe.safetensors")
        assert (ran.code, ran.out) == (2, "")
        assert Path("safe.safetensors").read_bytes() == before
    ran = modelhub("smoke", "--tokenizer", "nowhere", "safe.safetensors")
    assert ran.code == 2
    assert "there is no tokenizer" in ran.err


@pytest.mark.usefixtures("worker_within")
def test_a_grid_of_ones_own_prompts_is_made() -> None:
    """The thorough preset makes an image of each prompt at each seed, on a sheet that is kept, and checks them."""
    save(healthy("sd-1"), Path("good.safetensors"))
    Path("own.toml").write_text(
        'prompts = ["a lighthouse", "a lemon", "a cat"]\nseeds = [5, 6]\nsteps = 3\nsize = 64\n'
    )
    options = ("--device", "cpu", "--dtype", "fp32", "--catalog", "c.db", "--preset", "thorough")
    assert modelhub("intake", "--catalog", "c.db", "good.safetensors").code == 0
    wanted = ("--prompts", "own.toml", "--images", "pictures", "--report", "page.html", "--format", "json")
    ran = modelhub("smoke", *options, *wanted, "good")
    (report,) = ran.json()["reports"]
    assert (ran.code, report["outcome"]) == (0, "passed"), report["sentence"]
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["grid.images"]["sentence"] == "all 6 images show something"
    assert checks["grid.seeds"]["outcome"] == checks["grid.prompts"]["outcome"] == "passed"
    assert checks["image-to-image.picture"]["outcome"] == "passed"
    assert (report["facts"]["prompts"], report["facts"]["seeds"]) == (["a lighthouse", "a lemon", "a cat"], [5, 6])
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["001-good-grid.png", "001-good.png"]
    sheet = Path("pictures/001-good-grid.png").read_bytes()
    assert report["grid"]["sha256"] == hashlib.sha256(sheet).hexdigest()
    assert (int.from_bytes(sheet[16:20], "big"), int.from_bytes(sheet[20:24], "big")) == (2 * 256, 3 * 256)
    page = Path("page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<li>a lighthouse<li>a lemon<li>a cat" in page
    (run,) = modelhub("show", "--catalog", "c.db", "--format", "json", "good").json()["records"][0]["smoke_runs"]
    assert Path(run["facts"]["grid_image"]["path"]).read_bytes() == sheet


@pytest.mark.usefixtures("worker_within")
def test_good_models_calibrate_later_tests() -> None:
    """What was measured on them is written beside the catalog; a later test is judged by it, and says so."""
    save(healthy("sd-1"), Path("good.safetensors"))
    options = (*SMALL, "--catalog", "c.db")
    assert modelhub("intake", "--catalog", "c.db", "good.safetensors").code == 0
    ran = modelhub("smoke", *options, "--calibrate", "good")
    assert ran.code == 0, ran.err
    assert "sd-1, by 1 of these models: suspect are a UNet's error from" in ran.err
    assert '\n["sd-1"]\n' in Path("smoke/thresholds.toml").read_text()
    shutil.copy("good.safetensors", "other.safetensors")
    ran = modelhub("smoke", *options, "--devices", "cpu,cpu", "good", "other.safetensors")
    assert ran.out.count(", thresholds calibrated on 1 model, 20") == 2
    assert ran.out.count("passed  ") == 2
    ran = modelhub("smoke", "--thresholds", "none.toml", "good.safetensors")
    assert (ran.code, "none.toml: no such file of thresholds" in ran.err) == (2, True)


@pytest.mark.parametrize("given", [("--device", "gpu"), ("--devices", "cpu,cuda:x"), ("--prompts", "none.toml")])
def test_what_cannot_be_asked_for_is_refused(given: tuple[str, str]) -> None:
    """A device that is none, and prompts that are not there, end the run before anything is loaded."""
    ran = modelhub("smoke", *given, "good.safetensors")
    assert ran.code == 2
    assert given[1].partition(",")[2] in ran.err
