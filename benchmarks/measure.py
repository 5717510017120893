"""Whole processes, measured from outside: wall time, processor time and peak memory."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One process from start to end, interpreter start-up included, with every child that it waited for.

    ``peak_memory`` is the largest resident set of any one of them, in bytes; no process shows less than the one
    that started it had, about 20 MB.
    """

    wall: float
    processor: float
    peak_memory: int
    exit_code: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs of one command: seconds (median, least, most), seconds of processor time, bytes, how they ended."""

    wall: float
    least: float
    most: float
    processor: float
    peak_memory: int
    runs: int
    exit_codes: tuple[int, ...]


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
    timeout: float | None = None,
    quiet: bool = False,
) -> Run:
    """Run *command* in *folder* with *environment* (default: :func:`usual`), its output thrown away, and wait for it.

    What it says on standard error is shown when it fails, unless *quiet*. After *timeout* seconds it is killed with
    all that it started (exit code -9).
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else subprocess.PIPE,
        env=usual() if environment is None else environment,
        cwd=folder,
        start_new_session=timeout is not None,
    ) as process:
        alarm = threading.Timer(timeout or 0, _kill, (process.pid,))
        if timeout is not None:
            alarm.start()
        complaint = b"" if process.stderr is None else process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        alarm.cancel()
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.stderr.write(complaint.decode(errors="replace"))
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, process.returncode)


def usual() -> dict[str, str]:
    """This process's environment, but Python keeps the bytecode of what it imports, as everywhere in use."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _kill(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def summary(runs: Sequence[Run]) -> Summary:
    """The median of *runs*, and the worst of their memory."""
    walls = [r.wall for r in runs]
    return Summary(
        wall=statistics.median(walls),
        least=min(walls),
        most=max(walls),
        processor=statistics.median(r.processor for r in runs),
        peak_memory=max(r.peak_memory for r in runs),
        runs=len(runs),
        exit_codes=tuple(sorted({r.exit_code for r in runs})),
    )


ANY = None
"""Any exit code will do."""


def interleaved(
    commands: Mapping[str, Sequence[str]],
    times: int,
    *,
    before: Callable[[str], None] = lambda _: None,
    expected: Mapping[str, int | None] | None = None,
    budget: float = float("inf"),
    run: Callable[[Sequence[str]], Run] = run,
) -> dict[str, Summary]:
    """Run each of *commands* *times* times, in turn, so that a slow minute of the machine hits all of them.

    Each round begins with another one, so that none always runs after the same neighbour. *before* is called with the
    name of each before it runs, which is not measured. One that has used up *budget* seconds sits out the rounds that
    are left. Raises ``RuntimeError`` when one ends with another exit code than *expected* says (0 where it says
    nothing).
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    names = list(commands)
    for i in range(times):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            if sum(earlier.wall for earlier in runs[name]) >= budget:
                continue
            before(name)
            done = run(commands[name])
            code = (expected or {}).get(name, 0)
            if code is not ANY and done.exit_code != code:
                raise RuntimeError(f"{name} ended with exit code {done.exit_code}")
            runs[name].append(done)
    return {name: summary(done) for name, done in runs.items()}


def read_through(path: str) -> None:
    """Read *path*, a file or a folder of files, once, so that every method finds it in the page cache."""
    if os.path.isdir(path):
        for name in os.listdir(path):
            read_through(os.path.join(path, name))
        return
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def forget(path: str) -> None:
    """Have the kernel throw *path*, a file or a folder of files, out of the page cache (clean pages only)."""
    if os.path.isdir(path):
        for name in os.listdir(path):
            forget(os.path.join(path, name))
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
