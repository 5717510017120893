"""The worker as this process sees it: started, limited, and whatever becomes of it turned into an answer.

This process never imports torch. What the worker measured it reads from a file of lines of JSON, so that of a worker
that crashed everything is known that it had come to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelhub import termination
from modelhub.smoke.spec import SmokeSpec

WORKER = "modelhub.smoke.worker"
MEASURED = "measured.jsonl"
IMAGE = "image.png"
"""Files that the worker leaves in its folder."""

OUT_OF_MEMORY = 3
NO_DEVICE = 4
CANNOT_LOAD = 5
"""Exit statuses of the worker: no memory left; no such device; a file changed or cannot be loaded as it is."""

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONSAFEPATH": "1",
}
_BASE_MEMORY = 8 << 30
_MEMORY_PER_BYTE = 6
"""The default limit: torch's own address space, and the weights mapped, copied, widened to fp32 and once more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """*seconds* of wall time and *memory* in bytes of address space that a worker may take (``None``: by the file's
    size). Memory is limited where the system can, and not on a GPU, whose driver reserves as much as it likes."""

    seconds: float = 1800.0
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a worker left behind.

    *values* are its measurements by name, *stage* the last one that it entered, *end* why it did not get to its end in
    words (``None``: it did) and *testable* whether that speaks against the model.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    stage: str | None = None
    end: str | None = None
    testable: bool = True
    image: bytes | None = field(default=None, repr=False)


def run_worker(spec: SmokeSpec, limits: Limits) -> Measured:
    """Carry *spec* out in a process of its own; never raises for what the process does."""
    memory = limits.memory or _BASE_MEMORY + _MEMORY_PER_BYTE * sum(file.size for file in spec.files)
    with tempfile.TemporaryDirectory(prefix="modelhub-smoke-") as folder:
        end, testable = _run(command(folder, memory), spec.to_json(), folder, limits.seconds)
        values, stage = _read(os.path.join(folder, MEASURED))
        image = os.path.join(folder, IMAGE)
        png = None
        if os.path.isfile(image):
            with open(image, "rb") as file:
                png = file.read()
    if end is not None and testable and stage is not None:
        end = f"{end} while it was {stage}"
    return Measured(values, stage, end, testable, png)


def command(folder: str, memory: int) -> list[str]:
    """How the worker is started: without the working folder on its path."""
    return [sys.executable, "-P", "-m", WORKER, folder, str(memory)]


def _run(words: list[str], spec: str, folder: str, seconds: float) -> tuple[str | None, bool]:
    """Why the worker did not get to its end (``None``: it did), and whether that speaks against the model."""
    try:
        done = termination.run(
            words,
            spec.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=_environment(folder),
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"the worker did not end within {seconds:g} s", True
    except OSError as error:
        return f"the worker cannot be started: {error.strerror}", False
    said = _last_line(done.stderr)
    match done.returncode:
        case 0:
            return None, True
        case status if status == OUT_OF_MEMORY:
            return "the worker had not enough memory", True
        case status if status in (NO_DEVICE, CANNOT_LOAD):
            return said or "it cannot be loaded", False
        case status if status < 0:
            return f"the worker crashed (signal {-status})", True
        case status:
            return f"the worker failed with status {status}" + (f": {said}" if said else ""), True


def _environment(folder: str) -> dict[str, str]:
    """The user's environment, offline, with the libraries' caches in *folder* and this very modelhub on the path."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return os.environ | _ENVIRONMENT | {"PYTHONPATH": path, "HF_HOME": folder, "TORCH_HOME": folder}


def _last_line(stderr: bytes) -> str:
    lines = [each.strip() for each in stderr.decode(errors="replace").splitlines() if each.strip()]
    return lines[-1][:400] if lines else ""


def _read(path: str) -> tuple[dict[str, Any], str | None]:
    values: dict[str, Any] = {}
    stage = None
    for told in _lines(path):
        stage = told.pop("stage", stage)
        values |= told
    return values, stage


def _lines(path: str) -> Iterator[dict[str, Any]]:
    """The whole lines of the worker's file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return
    for row in data.split(b"\n")[:-1]:
        try:
            told = json.loads(row)
        except ValueError:
            return
        if isinstance(told, dict):
            yield told
