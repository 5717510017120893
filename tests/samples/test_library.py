"""The sample library holds what it says it holds, and nothing in it can do harm."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

import modelhub
from modelhub.container import open_path
from modelhub.pickles.render import render
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


PAYLOADS = {
    "free-styles.pt": "os.system('touch {marker}')",
    "speed-up.ckpt": "builtins.exec(\"open('{marker}', 'w').close()\")",
}


def test_every_unsafe_sample_is_tried_below(library: dict[str, Sample]) -> None:
    """No payload goes without its proof."""
    assert set(PAYLOADS) == {name for name, s in library.items() if s.verdict == "unsafe"}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_would_do_no_more_than_create_a_marker(library: dict[str, Sample], name: str) -> None:
    """The one dangerous call of a malicious sample is, to the letter, that which creates a marker beside it."""
    path = library[name].path
    marker = os.path.join(os.path.dirname(path), MARKER)
    with open_path(path) as container:
        calls = [render(call, 1000) for program in container.pickles for call in program.trace.calls]
    dangerous = [call for call in calls if not call.startswith(("torch._utils._rebuild", "collections.OrderedDict()"))]
    assert dangerous == [PAYLOADS[name].format(marker=marker)]


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    """The library is reproducible: built again in its place, no file changes."""
    first = {s.path: Path(s.path).read_bytes() for s in build_sample_library(tmp_path)}
    assert {s.path: Path(s.path).read_bytes() for s in build_sample_library(tmp_path)} == first


def test_weights_only_loading_refuses_the_payloads(library: dict[str, Sample]) -> None:
    """The malicious samples are what torch's own safe mode stops at."""
    for name in PAYLOADS:
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            torch.load(library[name].path, weights_only=True)
