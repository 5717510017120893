"""A clean environment for every command, and small files of every sort."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub.samples.pickling import Call, Import
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.tensors import DType

LAYOUT = {"first.weight": (DType.F16, (4, 8)), "first.bias": (DType.F32, (4,))}


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's settings, catalog or terminal, and each works in its own folder."""
    for name in list(os.environ):
        if name.startswith("MODELHUB_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"):
        monkeypatch.setenv(name, str(home / name.lower()))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def worker_within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands run models in this process: to start another, which imports torch anew, takes longer than that."""
    from tests.smoke.course import Within

    for module in ("modelhub.trials", "modelhub.smoke.crew"):
        monkeypatch.setattr(f"{module}.Worker", Within)


def _safe(path: str) -> None:
    write_torch_zip(path, random_weights(LAYOUT, seed=1))


def _calling(module: str, name: str, *arguments: object) -> Callable[[str], None]:
    def write(path: str) -> None:
        weights = random_weights(LAYOUT, seed=2)
        write_torch_zip(path, weights, before=[Call(Import(module, name), arguments)])

    return write


def _truncated(path: str) -> None:
    _safe(path)
    os.truncate(path, os.path.getsize(path) * 2 // 3)


def _bytes(data: bytes) -> Callable[[str], None]:
    def write(path: str) -> None:
        Path(path).write_bytes(data)

    return write


FILES: dict[str, Callable[[str], None]] = {
    "safe.pt": _safe,
    "safe.safetensors": lambda path: write_safetensors(path, random_weights(LAYOUT, seed=3), {"author": "me"}),
    "suspicious.pt": _calling("__main__", "Model"),
    "unsafe.pt": _calling("os", "system", "echo harmless"),
    "truncated.pt": _truncated,
    "junk.ckpt": _bytes(bytes(range(200, 256)) * 20),
    "empty.ckpt": _bytes(b""),
    "page.safetensors": _bytes(b"<!DOCTYPE html><html><title>404</title></html>"),
}


@pytest.fixture
def make() -> Callable[..., None]:
    """Write the named ones of ``FILES`` into the working folder."""

    def write(*names: str) -> None:
        for name in names:
            FILES[name](name)

    return write
