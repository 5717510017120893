"""The hook, the action and the image do what their files promise, and the examples in the docs work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import modelhub
from modelhub.samples.pickling import Call, Import
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.source import MODEL_EXTENSIONS
from modelhub.tensors import DType

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOC = (ROOT / "docs" / "drop-in.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a safe, a hostile and a truncated checkpoint."""
    folder = tmp_path / "my models"
    folder.mkdir()
    weights = random_weights({"w": (DType.F16, (8, 8))}, seed=1)
    write_torch_zip(folder / "safe.ckpt", weights)
    write_torch_zip(folder / "unsafe.pt", weights, before=[Call(Import("os", "mkdir"), (str(tmp_path / "marker"),))])
    write_torch_zip(folder / "broken.bin", weights)
    os.truncate(folder / "broken.bin", 500)
    (folder / "notes.txt").write_text("no model")
    return folder


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with a ``modelhub`` command that runs this working tree."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "modelhub"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m modelhub "$@"\n')
    script.chmod(0o755)
    return folder


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MODELHUB_")}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")} | more


# --------------------------------------------------------------------------------------------------- pre-commit hook


def hook() -> dict[str, Any]:
    (found,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return found


def run_hook(tmp_path: Path, command: Path, folder: Path, *names: str) -> int:
    """Run the hook as pre-commit does: entry, args and the names of files, without a shell."""
    entry = shlex.split(hook()["entry"])
    done = subprocess.run(
        [command / entry[0], *entry[1:], *hook().get("args", []), *names],
        cwd=folder,
        env=environment(tmp_path),
        check=False,
        capture_output=True,
    )
    return done.returncode


def test_the_hook_is_complete_and_installs_what_it_runs():
    """pre-commit asks for these keys; the entry must be a command that installing the project makes."""
    found = hook()
    assert {"id", "name", "entry", "language"} <= found.keys()
    assert (found["id"], found["language"]) == ("modelhub-scan", "python")
    assert shlex.split(found["entry"])[0] in PROJECT["scripts"]
    assert found.get("pass_filenames", True) is True


def test_the_hook_takes_model_files_by_extension():
    """Whatever carries a pickle, in any case of letters; and nothing that is no model file."""
    pattern = re.compile(hook()["files"])
    taken = {extension for extension in MODEL_EXTENSIONS if pattern.search(f"models/x{extension}")}
    assert taken >= {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".joblib", ".npz", ".safetensors"}
    assert pattern.search("A/MODEL.CKPT")
    named = re.search(r"\((\w+(?:\|\w+)+)\)", hook()["files"])
    assert named is not None
    assert {f".{extension}" for extension in named[1].split("|")} == taken
    assert not any(map(pattern.search, ("a.py", "ckpt", "model.pt.md", "xpt", "m.onnx")))


@pytest.mark.parametrize(
    ("names", "code"),
    [(["safe.ckpt"], 0), (["safe.ckpt", "unsafe.pt"], 1), (["broken.bin", "safe.ckpt"], 2), (["missing.pt"], 2)],
)
def test_the_hook_stops_what_is_not_proven(tmp_path, command, models, names, code):
    """Safe files pass; hostile and broken ones fail the commit, and no payload runs."""
    assert run_hook(tmp_path, command, models, *names) == code
    assert not (tmp_path / "marker").exists()


# ----------------------------------------------------------------------------------------------------- GitHub Action

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step.get("name", step.get("uses")): step for step in ACTION["runs"]["steps"]}


def run_scan_step(
    tmp_path: Path, command: Path, folder: Path, **inputs: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the action's scan as GitHub does: its inputs by environment, its outputs by file, bash with -eo pipefail."""
    given = {name: str(value.get("default", "")) for name, value in ACTION["inputs"].items()}
    given |= {name.replace("_", "-"): value for name, value in inputs.items()}
    step = STEPS["Scan"]
    names = {key: re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value)[1] for key, value in step["env"].items()}
    outputs = tmp_path / "outputs"
    outputs.write_text("")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env=environment(
            tmp_path,
            GITHUB_OUTPUT=str(outputs),
            MODELHUB_SCAN=str(command / "modelhub"),
            **{key: given[name] for key, name in names.items()},
        ),
        check=False,
        capture_output=True,
        text=True,
    )
    return done, dict(line.split("=", 1) for line in outputs.read_text().splitlines())


def test_the_action_is_whole():
    """A composite action; each script names its shell; outputs and expressions name what there is."""
    assert ACTION["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "outputs"} <= ACTION.keys()
    ids = {step.get("id") for step in ACTION["runs"]["steps"]}
    for name in re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text()):
        assert name in ACTION["inputs"]
    for name in re.findall(r"steps\.([a-z-]+)\.", (ROOT / "action.yml").read_text()):
        assert name in ids
    for output in re.findall(r"steps\.scan\.outputs\.([a-z-]+)", str(ACTION["outputs"])):
        assert f"{output}=" in STEPS["Scan"]["run"]
    for step in ACTION["runs"]["steps"]:
        assert "uses" in step or (step["shell"] == "bash" and step["run"])


def test_the_actions_scripts_take_inputs_as_data():
    """An expression inside a script would be pasted into it: a pull request's text would become a command."""
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        checked = subprocess.run(["bash", "-n", "-c", step.get("run", "")], check=False, capture_output=True)
        assert checked.returncode == 0, checked.stderr


def test_the_action_installs_its_own_checkout():
    """Another project has the name modelhub on the package index, so nothing is ever installed by that name."""
    install = STEPS["Install modelhub"]
    assert install["env"]["SOURCE"] == "${{ github.action_path }}"
    (line,) = [line for line in install["run"].splitlines() if "pip install" in line]
    assert shlex.split(line)[-3:] == ["-c", "$SOURCE/constraints.txt", "$SOURCE"]


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"paths": "safe.ckpt"}, 0),
        ({"paths": "."}, 1),
        ({"paths": "safe.ckpt\n\nbroken.bin  \n"}, 2),
        ({"paths": "safe.ckpt\nbroken.bin", "allow_incomplete": "true"}, 0),
        ({"paths": ".", "allow_incomplete": "true"}, 1),
        ({"paths": "safe.ckpt\nbroken.bin", "fail_on": "unknown", "allow_incomplete": "true"}, 1),
        ({"paths": "*.ckpt"}, 0),
        ({"paths": "$(touch ran) ; touch ran"}, 2),
        ({"paths": "safe.ckpt", "fail_on": "nonsense"}, 2),
    ],
    ids=str,
)
def test_the_action_ends_as_the_scan_does(tmp_path, command, models, inputs, code):
    """1 for a finding, 2 for what was not examined, which alone may be allowed; the report is there in each case."""
    done, outputs = run_scan_step(tmp_path, command, models, **inputs)
    assert done.returncode == code, done.stderr
    report = json.loads((models / "modelhub.sarif").read_text())
    assert report["version"] == "2.1.0"
    assert outputs["sarif-file"] == "modelhub.sarif"
    assert outputs["exit-code"] in ("0", "1", "2")
    assert not (models / "ran").exists()
    assert not (tmp_path / "marker").exists()


def test_the_actions_report_and_log_name_the_finding(tmp_path, command, models):
    """What failed the step stands in the report for code scanning and in the log for people."""
    done, outputs = run_scan_step(tmp_path, command, models, paths=".")
    report = json.loads((models / "modelhub.sarif").read_text())
    places = [
        place["physicalLocation"]["artifactLocation"]["uri"]
        for result in report["runs"][0]["results"]
        for place in result["locations"]
    ]
    assert any(place.endswith("unsafe.pt") for place in places)
    assert "unsafe.pt" in done.stdout
    assert outputs["exit-code"] == "1"


# ------------------------------------------------------------------------------------------------------------- image


def dockerfile() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in lines]


def test_the_image_is_slim_and_runs_modelhub_without_rights():
    """The last stage starts from Python's slim image, changes to a user by number and ends in the command."""
    steps = dockerfile()
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    final = dict(steps[last:])
    assert re.fullmatch(r"python:3\.\d+-slim", final["FROM"])
    assert int(final["USER"].partition(":")[0]) > 0
    assert json.loads(final["ENTRYPOINT"])[0] in PROJECT["scripts"]
    assert not any(word == "USER" for word, _ in steps[: last + 1])
    words = [word for word, _ in steps[last:]]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "RUN" not in words[words.index("USER") :]


def test_the_image_has_the_core_alone():
    """What is installed is the project without extras, so no torch."""
    (install,) = [text for word, text in dockerfile() if word == "RUN" and "pip install" in text]
    assert "pip install --no-cache-dir --disable-pip-version-check -c constraints.txt . " in install
    names = {re.match(r"[\w-]+", dependency)[0] for dependency in PROJECT["dependencies"]}
    assert not names & {"torch", "numpy", "diffusers", "transformers"}


def test_everything_that_the_image_is_built_from_reaches_docker():
    """Each path that is copied exists and is let through; all that building the package needs is among them."""
    copied: set[str] = set()
    for word, text in dockerfile():
        if word == "COPY" and "--from" not in text:
            copied |= set(text.split()[:-1])
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / path).exists() for path in copied)
    assert copied == let_through
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {
        "pyproject.toml",
        "constraints.txt",
        PROJECT["readme"],
        *(path for path in PROJECT["license-files"] if not path.startswith("modelhub/")),  # these come with the package
        *build["packages"],
    } <= copied


# ---------------------------------------------------------------------------------------------------------- the docs


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_the_examples_in_the_docs_run(tmp_path, monkeypatch, code):
    """Each Python example works as it stands on a checkpoint called model.ckpt."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(2)}}, "model.ckpt")
    names: dict[str, Any] = {}
    exec(compile(code, "docs/drop-in.md", "exec"), names)
    assert "modelhub" in names
    if "weights" in names:
        assert [float(x) for x in names["weights"]["w"]] == [1.0, 1.0]


def test_the_configurations_in_the_docs_name_what_there_is():
    """The hook's id and the action's inputs in the examples are real ones; the versions are this one."""
    hooks, workflow = (yaml.safe_load(text) for text in blocks("yaml"))
    assert hooks["repos"][0]["hooks"] == [{"id": hook()["id"]}]
    steps = workflow["jobs"]["models"]["steps"]
    (step,) = [step for step in steps if "modelhub@" in step["uses"]]
    assert step["with"].keys() <= ACTION["inputs"].keys()
    (upload,) = [step for step in steps if "upload-sarif" in step["uses"]]
    assert upload["with"]["sarif_file"] == ACTION["inputs"]["sarif-file"]["default"]
    assert hooks["repos"][0]["rev"] == step["uses"].partition("@")[2] == f"v{modelhub.__version__}"
