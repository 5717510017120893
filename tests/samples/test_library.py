"""The sample library holds what it says it holds, and nothing in it can do harm."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

import modelhub
from modelhub.samples.library import MARKER, Sample, build_sample_library
from modelhub.scan.findings import Verdict


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """The sample library by file name."""
    return {os.path.basename(s.path): s for s in build_sample_library(tmp_path_factory.mktemp("library"))}


def test_it_is_small_and_every_file_is_described(library: dict[str, Sample]) -> None:
    """Every file in the folder is a sample, with a known verdict and a line about it; together 20 to 45 MB."""
    folder = os.path.dirname(next(iter(library.values())).path)
    assert sorted(os.listdir(folder)) == sorted(library)
    assert 20e6 < sum(os.path.getsize(s.path) for s in library.values()) < 45e6
    assert {s.verdict for s in library.values()} < {v.label for v in Verdict}
    assert all(s.what for s in library.values())


def test_the_safe_samples_load_in_torch_and_safetensors(library: dict[str, Sample]) -> None:
    """What is called safe is a whole file that the usual loaders take."""
    for sample in library.values():
        if sample.verdict == "safe" and sample.path.endswith(".safetensors"):
            with safe_open(sample.path, framework="pt") as file:
                assert len(file.keys()) > 0
        elif sample.verdict == "safe":
            assert torch.load(sample.path, weights_only=True)


def test_an_embedding_and_a_hypernetwork_look_as_a1111_saves_them(library: dict[str, Sample]) -> None:
    """The embedding's vectors stand under its token; the hypernetwork's modules under their widths."""
    embedding = torch.load(library["moss.pt"].path, weights_only=True)
    assert embedding["string_to_param"]["*"].shape == (8, 768)
    hypernetwork = torch.load(library["sepia.pt"].path, weights_only=True)
    assert hypernetwork[768][0]["linear.0.weight"].shape == (48, 768)
    assert hypernetwork["layer_structure"] == [1, 1 / 16, 1]


def test_each_sample_is_what_it_is_said_to_be(library: dict[str, Sample]) -> None:
    """Scanning and identifying every sample gives the verdict, kind and architecture that it was made for."""
    for name, sample in library.items():
        identity = modelhub.identify(sample.path)
        found = (modelhub.scan(sample.path).verdict.label, identity.kind, identity.architecture)
        assert found == (sample.verdict, sample.kind, sample.architecture), name


def test_the_broken_samples_do_not_load(library: dict[str, Sample]) -> None:
    """A download that broke off, and an error page, are refused by the usual loaders."""
    with pytest.raises(RuntimeError):
        torch.load(library["harbour-v2.ckpt"].path, weights_only=True)
    for name in ("etching.safetensors", "removed.safetensors"):
        with pytest.raises(SafetensorError):
            safe_open(library[name].path, framework="pt")


LOADERS = {
    "free-styles.pt": "import sys, torch; torch.load(sys.argv[1], weights_only=False)",
    "speed-up.ckpt": "import sys, pickle; pickle.load(open(sys.argv[1], 'rb'))",
}


def test_every_unsafe_sample_is_tried_below(library: dict[str, Sample]) -> None:
    """No payload goes without its proof."""
    assert set(LOADERS) == {name for name, s in library.items() if s.verdict == "unsafe"}


@pytest.mark.parametrize("name", LOADERS)
def test_a_payload_would_do_no_more_than_create_a_marker(tmp_path: Path, name: str) -> None:
    """Loaded by a loader that runs pickles, a malicious sample creates one file beside itself and nothing else.

    The samples were written by this test a moment ago; they are run in a process and a folder of their own.
    """
    before = {os.path.basename(s.path) for s in build_sample_library(tmp_path / "library")}
    subprocess.run(
        [sys.executable, "-c", LOADERS[name], tmp_path / "library" / name], check=True, cwd=tmp_path, timeout=60
    )
    assert set(os.listdir(tmp_path / "library")) - before == {MARKER}
    assert os.listdir(tmp_path) == ["library"]


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    """The library is reproducible: built again in its place, no file changes."""
    first = {s.path: Path(s.path).read_bytes() for s in build_sample_library(tmp_path)}
    assert {s.path: Path(s.path).read_bytes() for s in build_sample_library(tmp_path)} == first


def test_weights_only_loading_refuses_the_payloads(library: dict[str, Sample]) -> None:
    """The malicious samples are what torch's own safe mode stops at."""
    for name in LOADERS:
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            torch.load(library[name].path, weights_only=True)
