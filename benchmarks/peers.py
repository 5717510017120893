"""The programs that modelhub is compared with, each from PyPI into a virtual environment of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.forking import __file__ as _forking
from benchmarks.measure import usual

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that says by its exit code what it makes of a file: 0 nothing, 1 something, else no answer.

    *program* starts it, *entry* is the function that does (see :mod:`benchmarks.forking`), both take *options* and
    then a path. One process may examine *together* files, one after the other.
    """

    name: str
    python: str
    program: tuple[str, ...]
    entry: str
    options: tuple[str, ...] = ()
    together: int = 1

    def command(self, path: str) -> list[str]:
        """The process that examines *path*."""
        return [*self.program, *self.options, path]


@dataclass(frozen=True, slots=True)
class Peer:
    """A package on PyPI and, for what it lacks to start at all, its *companions*."""

    package: str
    version: str
    companions: tuple[str, ...] = ()


PEERS = (
    Peer("picklescan", "1.0.5"),
    Peer("modelscan", "0.8.8"),
    Peer("fickling", "0.1.12", ("typing_extensions",)),  # before Python 3.12 it needs it and does not say so
    Peer("modelaudit", "0.2.54"),
)

MERGERS = (
    Peer("sd-mecha", "1.1.8", ("torch==2.13.0",)),
    Peer("diffusers", "0.42.1", ("peft==0.21.2", "transformers==5.23.0", "torch==2.13.0", "accelerate")),
)
"""What merges LoRAs."""

OURS = "modelhub"

EXECUTED = 99
"""The exit code by which the probe of torch tells that a file was about to run something."""


def ours(options: Sequence[str] = (), name: str = OURS) -> Tool:
    """This modelhub as pip installs it, its cache of verdicts unused."""
    python = sys.executable
    script = os.path.join(os.path.dirname(python), "modelhub")
    program = (script,) if os.path.exists(script) else (python, "-m", "modelhub")
    return Tool(name, python, program, "modelhub.cli:main", ("scan", "--no-cache", *options))


def environment(directory: str) -> dict[str, str]:
    """What every program runs in: a home of its own under *directory*, no telemetry, this modelhub importable."""
    home = os.path.join(directory, "home")
    os.makedirs(home, exist_ok=True)
    kept = {name: value for name, value in usual().items() if not name.startswith(("MODELHUB_", "XDG_", "HF_"))}
    return {
        **kept,
        "HOME": home,
        "NO_COLOR": "1",
        "PROMPTFOO_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": ROOT,
    }


def install(directory: str, peers: Sequence[Peer] = PEERS) -> list[Peer]:
    """Make an environment for each of *peers* under *directory* unless it is there; those that pip can provide."""
    return [peer for peer in peers if _install(peer, home_of(directory, peer))]


def home_of(directory: str, peer: Peer) -> str:
    """The virtual environment of *peer* under *directory*."""
    return os.path.join(directory, "peers", peer.package)


def python_with(package: str, directory: str) -> str | None:
    """The Python that can import the peer *package*, installed under *directory*; ``None`` where pip has it not."""
    home = os.path.join(directory, "peers", package)
    (peer,) = (each for each in PEERS if each.package == package)
    return os.path.join(home, "bin", "python") if _install(peer, home) else None


def _install(peer: Peer, home: str) -> bool:
    python = os.path.join(home, "bin", "python")
    check = f"import importlib.metadata as m; assert m.version({peer.package!r}) == {peer.version!r}"
    if os.path.exists(python):
        there = subprocess.run([python, "-c", check], check=False, stderr=subprocess.DEVNULL)
        if there.returncode == 0:
            return True
    venv.create(home, with_pip=True, clear=True)
    wanted = [f"{peer.package}=={peer.version}", *peer.companions]
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=False)
    return done.returncode == 0


def tools(directory: str, peers: Sequence[Peer]) -> list[Tool]:
    """The programs of *peers*, installed under *directory*, as their authors document them."""
    return [tool for peer in peers for tool in _tools(peer.package, home_of(directory, peer))]


def tools_here() -> list[Tool]:
    """Those peers' programs that can be imported in this very Python."""
    return [tool for peer in PEERS if _is_here(peer) for tool in _tools(peer.package, sys.prefix, sys.executable)]


def _is_here(peer: Peer) -> bool:
    try:
        return importlib.metadata.version(peer.package) == peer.version
    except importlib.metadata.PackageNotFoundError:
        return False


def _tools(package: str, home: str, python: str | None = None) -> list[Tool]:
    python = python or os.path.join(home, "bin", "python")
    program = os.path.join(home, "bin", package)
    if package == "picklescan":
        entry = "picklescan.cli:main"
        return [
            Tool("picklescan", python, (program,), entry, ("--path",)),
            Tool("picklescan --strict", python, (program,), entry, ("--strict", "--path")),
        ]
    if package == "modelscan":
        return [Tool("modelscan", python, (program,), "modelscan.cli:main", ("-p",))]
    if package == "fickling":
        api = os.path.join(HERE, "probes", "fickling_api.py")
        options = ("--json-output", os.devnull, "--check-safety")
        return [
            Tool("fickling", python, (program,), "fickling.__main__:main", options),
            Tool("fickling API", python, (python, api), f"{api}:main", together=50),
        ]
    return [Tool("modelaudit", python, (program,), "modelaudit.__main__:_run", ("scan", "--no-cache"))]


def torch_weights_only() -> Tool:
    """``torch.load(weights_only=True)`` of the torch installed here: no scanner, but what a scanner competes with."""
    probe = os.path.join(HERE, "probes", "weights_only.py")
    return Tool("torch weights_only", sys.executable, (sys.executable, probe), f"{probe}:main", together=50)


def scratch_folder(directory: str) -> str:
    """Where programs run, so that what they drop into the current folder lands there."""
    scratch = os.path.join(directory, "scratch")
    os.makedirs(scratch, exist_ok=True)
    return scratch


def answers(tool: Tool, paths: Sequence[str], directory: str, *, timeout: float = 60.0, jobs: int = 1) -> list[str]:
    """How *tool* ends for each of *paths*: an exit code, ``crash`` or ``timeout``, as text.

    *jobs* of them run at the same time, in *directory*/scratch. Raises ``RuntimeError`` when the program cannot even
    be loaded.
    """
    given = [""] * len(paths)
    with ThreadPoolExecutor(jobs) as pool:
        shares = [pool.submit(_answers, tool, paths[at::jobs], directory, timeout) for at in range(jobs)]
        for at, share in enumerate(shares):
            given[at::jobs] = share.result()
    return given


def _answers(tool: Tool, paths: Sequence[str], directory: str, timeout: float) -> list[str]:
    done = subprocess.run(
        [tool.python, _forking, tool.entry, str(timeout), str(tool.together)],
        input=json.dumps([[*tool.options, path] for path in paths]),
        check=False,
        capture_output=True,
        text=True,
        cwd=scratch_folder(directory),
        env=environment(directory),
    )
    if done.returncode:
        raise RuntimeError(f"{tool.name} cannot be run:\n{done.stderr}")
    return done.stdout.split()


def versions(peers: Sequence[Peer]) -> str:
    """Names and versions, for a table's foot."""
    return ", ".join(f"{peer.package} {peer.version}" for peer in peers)
