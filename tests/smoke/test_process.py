"""The worker as a process of its own: sealed, limited, and no end of the run whatever becomes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelhub.samples.runnable import healthy_vae, save
from modelhub.smoke import Limits, Settings, SmokeSpec, run
from modelhub.smoke.checks import judge
from modelhub.smoke.prepare import prepare
from modelhub.smoke.run import Measured, Worker
from tests.cli.run import ROOT

SETTINGS = Settings(device="cpu", dtype="fp32", size=64)


@pytest.fixture
def spec(tmp_path: Path) -> SmokeSpec:
    made = prepare(save(healthy_vae(), tmp_path / "vae.safetensors"), SETTINGS)
    assert isinstance(made, SmokeSpec)
    return made


def run_worker(spec: SmokeSpec, limits: Limits) -> Measured:
    with Worker(limits) as worker:
        return worker.run(spec)


def other_worker(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let *code* run in place of the worker; ``folder`` is where it leaves its measurements."""
    told = (
        "import json, os, sys, time; folder = json.loads(sys.stdin.readline())[0]; "
        'open(folder + "/measured.jsonl", "w").write(\'%s\\n\')'
    )
    stage = json.dumps({"stage": "sampling", "text": {"non_finite": 0.0, "difference": 1.0, "deviation": 1.0}})
    start = told % stage

    def command() -> list[str]:
        return [sys.executable, "-c", f"{start}\n{code}"]

    monkeypatch.setattr(run, "command", command)


FAULTS = {
    "crash": ("import ctypes; ctypes.string_at(0)", "the worker crashed (signal 11) while it was sampling"),
    "kill": ("os.kill(os.getpid(), 9)", "the worker crashed (signal 9) while it was sampling"),
    "hang": ("time.sleep(60)", "the worker did not end within 3 s while it was sampling"),
    "memory": ("sys.exit(3)", "the worker had not enough memory while it was sampling"),
    "error": (
        "raise ValueError('of no use')",
        "the worker failed with status 1: ValueError: of no use while it was sampling",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_does_not_end_well_fails_its_model(
    spec: SmokeSpec, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A crash, a hang, a kill and a lack of memory are results; what was measured before is kept."""
    code, sentence = FAULTS[fault]
    other_worker(monkeypatch, code)
    result = judge(spec, run_worker(spec, Limits(seconds=3)))
    assert (result.outcome, result.sentence) == ("failed", sentence)
    assert [check.name for check in result.checks] == ["worker", "keys.unused", "text.finite", "text.difference"]


def test_what_is_no_fault_of_the_model_is_not_testable(spec: SmokeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there says nothing of the model."""
    other_worker(monkeypatch, "sys.stderr.write('there is no CUDA device'); sys.exit(4)")
    result = judge(spec, run_worker(spec, Limits(seconds=20)))
    assert (result.outcome, result.sentence) == ("not testable", "there is no CUDA device")


@pytest.mark.parametrize("code", ["import no_such_module", "print('x', flush=True); raise SystemExit(1)"])
def test_a_broken_installation_is_no_fault_of_the_model(
    spec: SmokeSpec, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """A worker that ends before it comes to the model says nothing of it: when it starts, or when it imports torch."""
    starting = "import json, sys\nfolder = json.loads(sys.stdin.readline())[0]\n"
    starting += "open(folder + '/measured.jsonl', 'w').write('{\"stage\": \"starting\"}\\n')\n"
    for start in ("", starting):
        monkeypatch.setattr(run, "command", lambda start=start: [sys.executable, "-c", f"{start}{code}"])
        result = judge(spec, run_worker(spec, Limits(seconds=20)))
        assert result.outcome == "not testable", result.sentence
        assert not any(check.outcome == "failed" for check in result.checks)


def test_only_the_workers_own_answer_is_an_answer(spec: SmokeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that something else writes to its output is read past: neither does it end the test nor let it pass."""
    other_worker(monkeypatch, "print('loading libraries', flush=True); sys.exit(3)")
    result = judge(spec, run_worker(spec, Limits(seconds=20)))
    assert (result.outcome, result.sentence) == ("failed", "the worker had not enough memory while it was sampling")
    other_worker(monkeypatch, "[print('x', flush=True) or time.sleep(0.2) for _ in range(100)]")
    assert run_worker(spec, Limits(seconds=2)).end == "the worker did not end within 2 s while it was sampling"
    other_worker(monkeypatch, "print('x\\ndone', flush=True); time.sleep(60)")
    assert run_worker(spec, Limits(seconds=20)).end is None


def test_a_worker_goes_on_to_the_next_model(spec: SmokeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process tests model after model; only what ends it makes the next one start anew."""
    started = []

    def command() -> list[str]:
        started.append(1)
        return [
            sys.executable,
            "-c",
            "import json, os, sys\nfor line in sys.stdin:\n folder = json.loads(line)[0]\n"
            ' open(folder + "/measured.jsonl", "w").write(json.dumps({"vae": os.getpid()}) + "\\n")\n'
            " if json.loads(json.loads(line)[2])['seed']: os.kill(os.getpid(), 9)\n print('done', flush=True)",
        ]

    monkeypatch.setattr(run, "command", command)
    with Worker(Limits(seconds=20)) as worker:
        first, second = worker.run(spec), worker.run(spec)
        assert first.values == second.values
        assert (first.end, second.end) == (None, None)
        assert worker.run(replace(spec, seed=1)).end == "the worker crashed (signal 9)"
        third = worker.run(spec)
    assert third.end is None
    assert third.values != first.values
    assert len(started) == 2


def test_memory_is_limited(spec: SmokeSpec) -> None:
    """The real worker, given less than it needs, says that memory was short, and does not take the machine's."""
    result = judge(spec, run_worker(spec, Limits(seconds=120, memory=1 << 20)))
    assert result.outcome == "failed"
    assert result.sentence == "the worker had not enough memory while it was loading"


SEALED = """
import io, multiprocessing.util, os, pickle, socket, subprocess, sys
import torch
from modelhub.smoke.worker import Forbidden, seal
marked = pickle.dumps(print)
saved = io.BytesIO(); torch.save({"a": torch.ones(1)}, saved)
find = pickle.Unpickler
seal()
attempts = {
    "torch.load": lambda: torch.load(io.BytesIO(saved.getvalue())),
    "torch.serialization.load": lambda: torch.serialization.load(io.BytesIO(saved.getvalue())),
    "pickle.loads": lambda: pickle.loads(marked),
    "an unpickler kept from before": lambda: find(io.BytesIO(marked)).load(),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "resolve": lambda: socket.getaddrinfo("huggingface.co", 443),
    "run": lambda: subprocess.run(["true"]),
    "system": lambda: os.system("true"),
    "fork": lambda: os.fork(),
    "spawn": lambda: multiprocessing.util.spawnv_passfds(b"/bin/true", [b"true"], ()),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except Forbidden:
        print("refused", name)
    else:
        print("DONE", name)
"""


def test_a_sealed_process_neither_unpickles_nor_connects_nor_starts_anything(tmp_path: Path) -> None:
    """From the seal on, no library in the worker can load a pickle, reach the network or start a process."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", SEALED],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 10, done.stderr[-2000:]
    assert all(row.startswith("refused ") for row in lines), lines
