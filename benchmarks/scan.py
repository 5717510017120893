"""How long a scan takes: ``python -m benchmarks.scan``.

Whole processes, interpreter start-up included, on full-size checkpoints and on a tiny malicious pickle, side by side
with picklescan, which is what most sites and tools run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence

from benchmarks import machine, report
from benchmarks.build import DEFAULT_DIR, FILES, build
from benchmarks.measure import Summary, interleaved, read_through
from benchmarks.startup import startup_lines

MAX_SECONDS = 0.5
PICKLESCAN = "picklescan==1.0.5"


def install_picklescan(directory: str) -> str | None:
    """picklescan in a virtual environment of its own under *directory*; its path, or ``None`` if pip cannot."""
    home = os.path.join(directory, "picklescan")
    program = os.path.join(home, "bin", "picklescan")
    if not os.path.exists(program):
        venv.create(home, with_pip=True)
        python = os.path.join(home, "bin", "python")
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", PICKLESCAN], check=False)
        if done.returncode:
            return None
    return program


def commands(path: str, picklescan: str | None) -> dict[str, list[str]]:
    """The processes that scan *path*."""
    found = {"modelhub": [sys.executable, "-m", "modelhub", "scan", path]}
    if picklescan is not None:
        found["picklescan"] = [picklescan, "--path", path]
    return found


def measure(key: str, path: str, picklescan: str | None, runs: int) -> dict[str, Summary]:
    """Seconds and bytes of each scanner on *path*."""
    code = 1 if key == "malicious" else 0
    read_through(path)
    programs = commands(path, picklescan)
    return interleaved(programs, runs, expected=dict.fromkeys(programs, code))


def rows(key: str, path: str, results: dict[str, Summary]) -> list[tuple[str, ...]]:
    """One file's results as rows of the table."""
    size = os.path.getsize(path)
    title = f"{FILES[key][1]}" + (f", {report.gigabytes(size)}" if size > 1e6 else "")
    ours, theirs = results["modelhub"], results.get("picklescan")
    row = (
        title,
        f"{report.seconds(ours.wall)} [{ours.least:.2f}-{ours.most:.2f}]",
        report.megabytes(ours.peak_memory),
    )
    if theirs is None:
        return [(*row, "-", "-", "-")]
    peer = f"{report.seconds(theirs.wall)} [{theirs.least:.2f}-{theirs.most:.2f}]"
    return [(*row, peer, report.megabytes(theirs.peak_memory), f"{ours.wall / theirs.wall:.2f}")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    default = ["sd1-ckpt", "sd1-legacy", "sdxl-ckpt", "sdxl-lora", "malicious"]
    parser.add_argument("--what", nargs="+", choices=FILES, default=default, metavar="FILE")
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true", help="do not install and run picklescan")
    options = parser.parse_args(arguments)
    picklescan = None if options.no_peers else install_picklescan(options.dir)
    found: list[tuple[str, ...]] = []
    slowest = 0.0
    for key in options.what:
        path = build(key, options.dir)
        results = measure(key, path, picklescan, options.runs)
        slowest = max(slowest, results["modelhub"].wall)
        found += rows(key, path, results)
    columns = ("", "`modelhub scan`", "memory", "`picklescan`", "memory", "ratio")
    lines = [
        "# Scanning",
        "",
        *__doc__.splitlines()[2:],
        "",
        *report.table(columns, found),
        "",
        f"* Under {MAX_SECONDS} s: {report.judged(slowest < MAX_SECONDS)} ({slowest:.2f} s at most).",
        f"* Median [least-most] of {options.runs} interleaved runs, files in the page cache. The ratio is modelhub's "
        "time over picklescan's.",
        "",
        *startup_lines(path_of_any(options.dir)),
        "",
        *machine.description(options.dir, ("click",)),
        f"* {PICKLESCAN.replace('==', ' ')}" if picklescan else "* picklescan could not be installed",
    ]
    report.write("scan.md", lines)


def path_of_any(directory: str) -> str:
    """A small file for the commands whose start-up is counted."""
    return build("sdxl-lora", directory)


if __name__ == "__main__":
    main()
