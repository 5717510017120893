"""How long a scan takes, and how much memory: ``python -m benchmarks.scan``.

Whole processes, interpreter start-up included, side by side with four other scanners: full-size checkpoints, a folder
of LoRAs, a tiny malicious pickle (start-up is all of it) and a pickle of five million opcodes. Each is from PyPI in a
virtual environment of its own; all run in the same rounds, on files in the page cache.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence

from benchmarks import machine, measure, peers, report
from benchmarks.build import DEFAULT_DIR, FILES, build, size_of
from benchmarks.measure import Summary, interleaved, read_through
from benchmarks.peers import OURS, Tool
from benchmarks.startup import startup_lines

MAX_SECONDS_TINY = 0.1
MAX_MEMORY = 100e6
TIMEOUT = 60.0
BUDGET = 30.0

EXPECTED = {"malicious": 1}
"""The exit codes that modelhub owes, where it is not 0."""

WHAT = ("sd1-ckpt", "sd1-legacy", "sdxl-ckpt", "loras", "malicious", "plain")

FIRST_OPINION = f"{OURS} --no-second-opinion"


def tools_for(key: str, directory: str, found: Sequence[peers.Peer]) -> list[Tool]:
    """Who examines the file *key*; bare fickling knows no folders and no zip files."""
    own = [peers.ours()]
    if key == "malicious":
        own.append(peers.ours(("--no-second-opinion",), FIRST_OPINION))
    left_out = {"picklescan --strict"} | ({"fickling"} if key in {"sd1-ckpt", "sdxl-ckpt", "loras"} else set())
    return own + [tool for tool in peers.tools(directory, found) if tool.name not in left_out]


def time_all(tools: Sequence[Tool], path: str, directory: str, runs: int) -> dict[str, Summary]:
    """Seconds, bytes and exit codes of each of *tools* on *path*; the slow ones run less often."""
    read_through(path)
    run = functools.partial(
        measure.run,
        environment=peers.environment(directory),
        folder=peers.scratch_folder(directory),
        timeout=TIMEOUT,
        quiet=True,
    )
    commands = {tool.name: tool.command(os.path.abspath(path)) for tool in tools}
    run(commands[OURS])  # a checkout has no bytecode yet, what pip installed has
    return interleaved(commands, runs, expected=dict.fromkeys(commands, measure.ANY), budget=BUDGET, run=run)


def answered(result: Summary) -> bool:
    """Whether a program said what it makes of the file, whatever that is: its exit code is 0 or 1."""
    return set(result.exit_codes) <= {0, 1}


def best_peer(results: dict[str, Summary]) -> tuple[str, float] | None:
    """The quickest of the others that gave an answer, and its seconds."""
    walls = [(r.wall, name) for name, r in results.items() if not name.startswith(OURS) and answered(r)]
    return (min(walls)[1], min(walls)[0]) if walls else None


def title(key: str, path: str) -> str:
    size = size_of(path)
    return FILES[key][1] + (f", {report.gigabytes(size)}" if size > 1e8 else "")


def section(key: str, path: str, results: dict[str, Summary]) -> list[str]:
    """One file's results as Markdown."""
    best = best_peer(results)
    rows = [
        (
            f"`{name}`",
            f"{report.seconds(r.wall)} [{r.least:.2f}-{r.most:.2f}]",
            f"{r.wall / best[1]:.2f}" if best else "-",
            report.seconds(r.processor),
            report.megabytes(r.peak_memory),
            _exit(r),
            str(r.runs),
        )
        for name, r in results.items()
    ]
    columns = ("", "wall", "of the best peer", "processor", "peak memory", "exit code", "runs")
    return [f"## {title(key, path)}", "", *report.table(columns, rows), ""]


def _exit(result: Summary) -> str:
    names = {-9: f"over {TIMEOUT:.0f} s"}
    return ", ".join(names.get(code, str(code)) for code in result.exit_codes)


def overview(found: dict[str, tuple[str, dict[str, Summary]]]) -> list[str]:
    """One row per file, one column per scanner: wall time, and memory where it is more than 100 MB."""
    shown = [OURS, "picklescan", "modelscan", "fickling", "fickling API", "modelaudit"]
    rows = []
    for key, (path, results) in found.items():
        best = best_peer(results)
        ratio = f"{results[OURS].wall / best[1]:.2f}" if best else "-"
        rows.append((title(key, path), *(_cell(results.get(name)) for name in shown), ratio))
    return report.table(("", *(f"`{name}`" for name in shown), "ours / best peer"), rows)


def _cell(result: Summary | None) -> str:
    if result is None:
        return "-"
    if not answered(result):
        return f"no answer ({_exit(result)})"
    return f"{report.seconds(result.wall)}, {report.megabytes(result.peak_memory)}, {_exit(result)}"


def verdict_lines(found: dict[str, tuple[str, dict[str, Summary]]]) -> list[str]:
    """Whether what modelhub promises was met."""
    slower = [
        FILES[key][1]
        for key, (_, results) in found.items()
        if (best := best_peer(results)) is not None and results[OURS].wall >= best[1]
    ]
    hungry = max(results[OURS].peak_memory for _, results in found.values())
    lines = [
        f"* Faster than every peer on every row: {report.judged(not slower)}"
        + (f" (slower on: {'; '.join(slower)})." if slower else "."),
        f"* Under {report.megabytes(MAX_MEMORY)}: {report.judged(hungry < MAX_MEMORY)} "
        f"({report.megabytes(hungry)} at most).",
    ]
    wrong = [
        FILES[key][1] for key, (_, results) in found.items() if results[OURS].exit_codes != (EXPECTED.get(key, 0),)
    ]
    lines.append(
        "* The malicious pickle flagged, all others safe: "
        + report.judged(not wrong)
        + (f" (not so: {'; '.join(wrong)})." if wrong else ".")
    )
    if "malicious" in found:
        results = found["malicious"][1]
        tiny = results[FIRST_OPINION] if answered(results[FIRST_OPINION]) else results[OURS]
        lines.append(
            f"* The tiny pickle under {MAX_SECONDS_TINY} s, without the second opinion: "
            f"{report.judged(tiny.wall < MAX_SECONDS_TINY)} ({report.seconds(tiny.wall)})."
        )
    return lines


NOTES = (
    "Exit codes: 0 nothing found, 1 something found, else no answer; a ratio compares with the quickest peer that gave "
    "an answer, right or wrong.",
    "Peak memory is that of the largest single process.",
    "`fickling` is its command line (`--check-safety`), which reads bare pickles only; `fickling API` are its "
    "functions `scan_zip_archive` and `scan_file`, in a folder on files named as pickles are.",
    "`picklescan` does not open `.safetensors` files; `modelscan` skips kinds of files that it does not know.",
    "`modelaudit` runs with its telemetry off (`PROMPTFOO_DISABLE_TELEMETRY=1`) and without its cache, modelhub "
    "without its own.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=FILES, default=WHAT, metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true", help="do not install and run the other scanners")
    options = parser.parse_args(arguments)
    directory = os.path.abspath(options.dir)
    installed = [] if options.no_peers else peers.install(directory)
    found: dict[str, tuple[str, dict[str, Summary]]] = {}
    for key in options.what:
        path = build(key, directory)
        tools = tools_for(key, directory, installed)
        found[key] = (path, time_all(tools, path, directory, options.runs))
        print("\n".join(section(key, path, found[key][1])), flush=True)
    table = [*overview(found), "", *verdict_lines(found)]
    circumstances = [
        *machine.description(directory, ("click",)),
        f"* {peers.versions(installed)}" if installed else "* no peers",
    ]
    lines = ["# Scanning", "", *__doc__.splitlines()[2:], "", *table, ""]
    for key, (path, results) in found.items():
        lines += section(key, path, results)
    lines += [
        f"Median [least-most] of up to {options.runs} interleaved runs of whole processes; whoever had used "
        f"{BUDGET:.0f} s on a file ran it no more.",
        "",
        *(f"* {note}" for note in NOTES),
        "",
        *startup_lines(build("sdxl-lora", directory)),
        "",
        *circumstances,
    ]
    report.write("scan.md", lines)
    if set(WHAT) <= set(found) and len(installed) == len(peers.PEERS):
        report.embed("speed", [*table, "", *(f"* {note}" for note in NOTES), "", *circumstances])


if __name__ == "__main__":
    main()
