"""Whole processes, measured from outside: wall time, processor time and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
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
    """Several runs of one command: seconds (median, least, most), seconds of processor time, bytes."""

    wall: float
    least: float
    most: float
    processor: float
    peak_memory: int
    runs: int


def run(command: Sequence[str]) -> Run:
    """Run *command*, its output thrown away, and wait for it."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.stderr.write(complaint.decode(errors="replace"))
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, process.returncode)


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
    )


def interleaved(
    commands: Mapping[str, Sequence[str]],
    times: int,
    *,
    before: Callable[[], None] = lambda: None,
    expected: Mapping[str, int] | None = None,
) -> dict[str, Summary]:
    """Run each of *commands* *times* times, in turn, so that a slow minute of the machine hits all of them.

    Each round begins with another one, so that none always runs after the same neighbour. *before* runs before each
    and is not measured. Raises ``RuntimeError`` when one ends with another exit code than *expected* says (0 where it
    says nothing).
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    names = list(commands)
    for i in range(times):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            before()
            done = run(commands[name])
            if done.exit_code != (expected or {}).get(name, 0):
                raise RuntimeError(f"{name} ended with exit code {done.exit_code}")
            runs[name].append(done)
    return {name: summary(done) for name, done in runs.items()}


def read_through(path: str) -> None:
    """Read *path* once, so that every method finds it in the page cache, as a file just downloaded is."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass
