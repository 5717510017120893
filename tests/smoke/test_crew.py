"""Several workers side by side, and reading the next model ahead."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modelhub.errors import SourceError
from modelhub.samples.runnable import healthy_vae, save
from modelhub.smoke import Ahead, Crew, Limits, Settings, SmokeSpec, ahead, run
from modelhub.smoke.prepare import prepare
from modelhub.smoke.spec import TensorFile
from modelhub.trials import Trials, _keep_image

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)

WORKER = """
import json, os, sys, time
for line in sys.stdin:
    folder, _, spec = json.loads(line)
    spec = json.loads(spec)
    with open(folder + "/measured.jsonl", "w") as file:
        file.write(json.dumps({"stage": "sampling", "device": spec["device"], "pid": os.getpid()}) + "\\n")
    deadline = time.monotonic() + 20
    while spec["seed"] and not os.path.exists(spec["path"] + ".go") and time.monotonic() < deadline:
        time.sleep(0.01)
    print("done", flush=True)
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmokeSpec:
    monkeypatch.setattr(run, "command", lambda: [sys.executable, "-c", WORKER])
    made = prepare(save(healthy_vae(), tmp_path / "vae.safetensors"), SETTINGS)
    assert isinstance(made, SmokeSpec)
    return made


def waits(spec: SmokeSpec) -> SmokeSpec:
    """One that is not done before a file says so."""
    return replace(spec, seed=1)


def test_each_device_has_a_worker_of_its_own(spec: SmokeSpec) -> None:
    """Two tests go on at once, each on its device; a slow one does not hold up what the other worker does next."""
    with Crew[str](Limits(seconds=30), ("cpu", "cuda:1")) as crew:
        crew.start("slow", waits(spec))
        crew.start("quick", spec)
        assert not crew.has_idle
        first, measured = crew.next_done()
        assert (first, measured.values["device"]) == ("quick", "cuda:1")
        crew.start("next", spec)
        second, again = crew.next_done()
        assert (second, again.values["pid"]) == ("next", measured.values["pid"])
        Path(f"{spec.path}.go").touch()
        third, slow = crew.next_done()
        assert (third, slow.values["device"], slow.end) == ("slow", "cpu", None)
        assert not crew.is_busy


def test_leaving_ends_what_still_runs(spec: SmokeSpec) -> None:
    """Ctrl-C leaves no process behind, and waits for none."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Crew[str](Limits(seconds=30), (None, None)) as crew:
        crew.start("one", waits(spec))
        crew.start("two", waits(spec))
        processes = []
        while len(processes) < 2:
            processes = [each._process.pid for each in crew._workers if each._process is not None]
        raise KeyboardInterrupt
    assert time.monotonic() - began < 10
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_run_answers_in_order_and_stops_for_nothing(spec: SmokeSpec, tmp_path: Path) -> None:
    """On one device results come in the order of the paths, those that need no worker and those that fail, too."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no model")
    with Trials(None, SETTINGS, Limits(seconds=30)) as trials:
        paths = [(spec.path, None), (str(broken), None), (str(tmp_path / "none"), None), ("no", ValueError("barred"))]
        told = list(trials.run_all([*paths, (spec.path, None)]))
    assert [(number, path) for number, path, _ in told] == [
        (1, spec.path),
        (2, str(broken)),
        (3, str(tmp_path / "none")),
        (4, "no"),
        (5, spec.path),
    ]
    assert [getattr(found, "outcome", type(found).__name__) for *_, found in told] == [
        "failed",  # the stand-in measures nothing
        "not testable",
        "NotFound",
        "ValueError",
        "failed",
    ]


def test_an_image_that_cannot_be_kept_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that another run is writing at the same time: each writes a file of its own, and all of it."""
    image = b"\x89PNG" * 1000

    def beside(written: str, path: str) -> None:
        with monkeypatch.context() as other:
            other.setattr(os, "replace", replaced)
            _keep_image(image, str(tmp_path))  # another run comes to its end meanwhile
        assert Path(written).read_bytes() == image
        replaced(written, path)

    replaced = os.replace
    monkeypatch.setattr(os, "replace", beside)
    _, path = _keep_image(image, str(tmp_path))
    assert [each.read_bytes() for each in tmp_path.rglob("*.*")] == [image]
    os.remove(path)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SourceError, match="the image cannot be kept there: No space left on device"):
        _keep_image(image, str(tmp_path))
    assert not list(tmp_path.rglob("*.*"))


def cached(path: Path) -> bool:
    """Whether the first and the last byte of *path* are in the system's cache."""
    with path.open("rb") as file:
        try:
            for place in (0, path.stat().st_size - 1):
                os.preadv(file.fileno(), [bytearray(1)], place, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
    return True


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in its cache")
def test_the_next_models_bytes_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the cache when the worker asks for them; never more than there is room for; ending is at once."""
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.write(os.urandom(24 << 20))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        if cached(path):
            pytest.skip("this file system does not let go of what it has cached")
    except OSError:
        pytest.skip("this file system does not tell what it has cached")
    files = [TensorFile(str(tmp_path / "gone"), 1, 0, 0), TensorFile(str(path), 1, 0, 0)]
    with Ahead() as reading:
        monkeypatch.setattr(ahead, "_room", lambda: 1 << 20)
        reading.read(files)
        assert reading._thread is not None
        reading._thread.join(20)
        assert not cached(path)
        monkeypatch.setattr(ahead, "_room", lambda: 1 << 30)
        reading.read(files)
        reading._thread.join(20)
        assert cached(path)
    assert not any(thread.name == "smoke-ahead" for thread in threading.enumerate())
