"""A process that is asked to end cleans up first, and ends with the exit code that shells have for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhub import cli
from modelhub.samples.layouts import hypernetwork, vae
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import random_weights
from modelhub.samples.wrappers import a1111_hypernetwork
from modelhub.tensors import DType
from modelhub.termination import Terminated
from tests.cli.run import ROOT, modelhub

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX's")

UNFINISHED = ".modelhub-"
"""What stands in the names of part files and folders."""


def large(path: str) -> None:
    write_torch_zip(path, random_weights({f"{n}.weight": (DType.F32, (1024, 1024)) for n in range(12)}, seed=1))


def large_hypernetwork(path: str) -> None:
    structure = (1, 2, 1)
    layout = hypernetwork(structure=structure)
    write_torch_zip("large.pt", a1111_hypernetwork("large", layout, structure=structure, seed=1))
    assert modelhub("convert", "large.pt", path).code == 0
    os.unlink("large.pt")


def start(*words: str) -> subprocess.Popen[str]:
    """A command in a session of its own, by which its processes are found."""
    return subprocess.Popen(
        [sys.executable, "-m", "modelhub", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def unfinished() -> list[str]:
    return [str(path) for path in Path().rglob("*") if UNFINISHED in path.name]


def processes(session: int) -> list[str]:
    """The command lines of the processes of *session* that are still running."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (process / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            if int(of) == session and state != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def ask(words: tuple[str, ...], number: int, when: Callable[[int], bool]) -> tuple[int, str]:
    """Start a command and send it the signal *number* when *when* says so of its session; its exit code and errors."""
    child = start(*words)
    while child.poll() is None and not when(child.pid):
        time.sleep(0.002)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert processes(child.pid) == []
    return child.returncode, errors


COMMANDS: dict[str, tuple[Callable[[str], None], tuple[str, ...]]] = {
    "convert": (large, ("convert", "m.pt")),
    "folder": (large, ("convert", "m.pt", "out", "--max-shard-size", "10MB")),
    "batch": (large, ("convert", "-r", ".", "-j", "2")),
    "intake": (large, ("intake", "m.pt", "--catalog", "catalog.db")),
    "restore": (large_hypernetwork, ("restore", "m.safetensors")),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_asked_to_end_leaves_nothing_behind(command: str, number: signal.Signals) -> None:
    """In the middle of writing: one line, the shell's exit code, no part file, no process, the source as it was."""
    write, words = COMMANDS[command]
    write(words[1] if words[1] != "-r" else "m.pt")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    for _ in range(5):
        code, errors = ask(words, number, lambda _: bool(unfinished()))
        assert unfinished() == []
        assert {name: Path(name).read_bytes() for name in before} == before
        if code != 0:  # else it was done before the signal came
            break
        for path in set(os.listdir()) - before.keys() - {"catalog.db"}:
            subprocess.run(["rm", "-r", path], check=True)
    assert code == 128 + number
    assert errors.splitlines()[-1] == f"error: ended by {number.name}"
    assert "Traceback" not in errors


def test_the_worker_of_a_smoke_test_ends_with_the_command() -> None:
    """A worker that is loading torch is not left behind."""
    write_safetensors("vae.safetensors", random_weights(vae(width=0.25), seed=1), {})
    code, _ = ask(("smoke", "vae.safetensors"), signal.SIGTERM, lambda pid: len(processes(pid)) > 1)
    assert code == 143


def test_the_exit_code_is_the_shells() -> None:
    """128 and the signal's number, with the signal's name; Ctrl-C is one of them."""
    assert cli.explain(Terminated(signal.SIGTERM)) == ("ended by SIGTERM", None, 143)
    assert cli.explain(Terminated(signal.SIGINT)) == cli.explain(KeyboardInterrupt()) == ("interrupted", None, 130)


def python(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", textwrap.dedent(code)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_an_exception_that_python_swallows_comes_again() -> None:
    """A signal that comes within a finaliser, whose exceptions are ignored, ends the process all the same."""
    done = python(
        """
        import os, signal, time
        from modelhub import termination
        termination.listen()
        class Odd:
            def __del__(self):
                signal.raise_signal(signal.SIGTERM)
        try:
            Odd()
            os.write(1, b"swallowed\\n")
            time.sleep(30)
        except termination.Terminated as error:
            print(error.number)
        """
    )
    assert (done.stdout.split(), done.stderr) == (["swallowed", "15"], "")


@pytest.mark.parametrize("wait", ["get(queue.Queue())", "result(Future())", "join(other)"])
def test_a_signal_that_another_thread_was_given_ends_a_wait(wait: str) -> None:
    """The main thread hears it while it waits for what never comes."""
    done = python(
        f"""
        import queue, signal, threading, time
        from concurrent.futures import Future
        from modelhub import termination
        termination.listen()
        other = threading.Thread(target=time.sleep, args=(50,), daemon=True)
        other.start()
        threading.Timer(0.2, signal.pthread_kill, (other.ident, signal.SIGTERM)).start()
        before = time.monotonic()
        try:
            termination.{wait}
        except termination.Terminated as error:
            print(error.number, time.monotonic() - before < 20)
        try:
            termination.get(queue.Queue(), 0.01)
        except queue.Empty:
            print("nothing")
        """
    )
    assert (done.stdout.split(), done.stderr) == (["15", "True", "nothing"], "")


def test_only_the_first_request_is_heard_while_cleaning_up() -> None:
    """A terminal's SIGHUP after SIGTERM does not break into the cleaning up; a second Ctrl-C does."""
    done = python(
        """
        import signal
        from modelhub import termination
        termination.listen()
        try:
            signal.raise_signal(signal.SIGTERM)
        except termination.Terminated:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            print("cleaned up")
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                print("broken off")
        """
    )
    assert (done.stdout.splitlines(), done.stderr) == (["cleaned up", "broken off"], "")


def test_a_child_that_is_just_being_started_is_not_left_behind() -> None:
    """A signal that comes between the start of a child and the moment its number is known does not lose the child."""
    done = python(
        """
        import signal, subprocess, sys
        from modelhub import termination
        class Late(subprocess.Popen):
            def __init__(self, *words, **how):
                super().__init__(*words, **how)
                print(self.pid, flush=True)
                signal.raise_signal(signal.SIGTERM)
        subprocess.Popen = Late
        termination.listen()
        try:
            termination.run([sys.executable, "-c", "import time; time.sleep(60)"])
        except termination.Terminated as error:
            print(error.number)
        """
    )
    child, number = map(int, done.stdout.split())
    assert number == 15
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_what_is_ignored_stays_ignored_and_forks_die() -> None:
    """``nohup`` protects from SIGHUP; a forked worker does not run its parent's cleaning up."""
    done = python(
        """
        import os, signal
        from modelhub import termination
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        termination.listen()
        signal.raise_signal(signal.SIGHUP)
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                print("never")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (done.stdout.splitlines(), done.stderr) == (["-15"], "")
