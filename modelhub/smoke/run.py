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
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from threading import Lock, Thread
from time import monotonic
from typing import IO, Any

from modelhub import termination
from modelhub.smoke.spec import SmokeSpec

WORKER = "modelhub.smoke.worker"
MEASURED = "measured.jsonl"
IMAGE = "image.png"
GRID = "grid.png"
"""Files that the worker leaves in its folder."""

STARTING = "starting"
"""The stage of a worker that has not come to its model: what ends it there is the installation's fault."""

DONE = b"done\n"
"""The line with which a worker answers that it came to the end of a spec."""

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
_ERRORS = "errors.txt"
_RANDOM_BYTES = 6 << 30
_BASE_MEMORY = 8 << 30
_MEMORY_PER_BYTE = 6
"""The default limit: torch's own address space, and the weights mapped, copied, widened to fp32 and once more. Random
weights count as SDXL's in fp16."""


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
    grid: bytes | None = field(default=None, repr=False)


class Worker:
    """A process that carries out one spec after another; started when it is needed, and anew when it ended.

    A context manager: leaving it ends the process. *device* is handed to every spec (``None``: its own).
    """

    def __init__(self, limits: Limits | None = None, device: str | None = None) -> None:
        self._limits = limits or Limits()
        self._device = device
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = Lock()
        self._stopped = False
        self._answers: Queue[bytes] = Queue()
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def stop(self) -> None:
        """End the process for good, from another thread than that of :meth:`run`, which then comes to its end."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def run(self, spec: SmokeSpec) -> Measured:
        """Carry *spec* out; never raises for what the process does."""
        if self._device is not None:
            spec = replace(spec, device=self._device)
        memory = self._limits.memory or _memory_for(spec)
        with tempfile.TemporaryDirectory(prefix="modelhub-smoke-") as folder:
            try:
                end, testable = self._carry_out(json.dumps([folder, memory, spec.to_json()]))
            except BaseException:
                self._end()
                raise
            values, stage = _read(os.path.join(folder, MEASURED))
            image, grid = (_bytes_of(os.path.join(folder, name)) for name in (IMAGE, GRID))
        if end is not None:
            testable = testable and stage not in (None, STARTING)
            if testable:
                end = f"{end} while it was {stage}"
            self._end()
        return Measured(values, stage, end, testable, image, grid)

    def _carry_out(self, task: str) -> tuple[str | None, bool]:
        """Why the worker did not get to its end (``None``: it did), and whether that speaks against the model."""
        try:
            with self._starting:
                if self._stopped:
                    return "the worker was stopped", False
                process = self._started()
            assert process.stdin is not None
            process.stdin.write(task.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return "the worker ended before it was asked for anything", False
        except OSError as error:
            return f"the worker cannot be started: {error.strerror}", False
        latest = monotonic() + self._limits.seconds
        answer = None
        while answer != b"":
            try:
                answer = termination.get(self._answers, latest - monotonic())
            except Empty:
                return f"the worker did not end within {self._limits.seconds:g} s", True
            if answer == DONE:
                return None, True
        assert self._home is not None
        return _end_of(process.wait(), _last_line(os.path.join(self._home.name, _ERRORS)))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._home = tempfile.TemporaryDirectory(prefix="modelhub-smoke-")
            with open(os.path.join(self._home.name, _ERRORS), "wb") as errors, termination.held():
                self._process = subprocess.Popen(  # noqa: S603
                    command(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=self._home.name,
                    env=_environment(self._home.name),
                )
            self._answers = Queue()
            Thread(target=_pass_on, args=(self._process.stdout, self._answers), daemon=True).start()
        return self._process

    def _end(self) -> None:
        with self._starting:
            process, home = self._process, self._home
            self._process = self._home = None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
        if home is not None:
            home.cleanup()


def _pass_on(stdout: IO[bytes], answers: Queue[bytes]) -> None:
    """Hand every line on, and an empty one for the end."""
    with suppress(ValueError, OSError):  # it is closed from the other side
        for line in iter(stdout.readline, b""):
            answers.put(line)
    answers.put(b"")


def command() -> list[str]:
    """How the worker is started: without the working folder on its path."""
    return [sys.executable, "-P", "-m", WORKER]


def _memory_for(spec: SmokeSpec) -> int:
    """The default limit of address space."""
    of_files = sum(file.size for file in (*spec.files, *(spec.clip.files if spec.clip is not None else ())))
    of_random = _RANDOM_BYTES if any(each.tensors is None for each in spec.components.values()) else 0
    return _BASE_MEMORY + _MEMORY_PER_BYTE * (of_files + of_random)


def _end_of(status: int, said: str) -> tuple[str, bool]:
    if status == OUT_OF_MEMORY:
        return "the worker had not enough memory", True
    if status in (NO_DEVICE, CANNOT_LOAD):
        return said or "it cannot be loaded", False
    if status < 0:
        return f"the worker crashed (signal {-status})", True
    return f"the worker failed with status {status}" + (f": {said}" if said else ""), True


def _environment(folder: str) -> dict[str, str]:
    """The user's environment, offline, with the libraries' caches in *folder* and this very modelhub on the path."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return os.environ | _ENVIRONMENT | {"PYTHONPATH": path, "HF_HOME": folder, "TORCH_HOME": folder}


def _last_line(path: str) -> str:
    with open(path, "rb") as file:
        lines = [each.strip() for each in file.read().decode(errors="replace").splitlines() if each.strip()]
    return lines[-1][:400] if lines else ""


def _bytes_of(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


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
