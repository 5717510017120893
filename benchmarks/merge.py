"""How long a merge takes, and how much memory: ``python -m benchmarks.merge``.

The yardstick is a plain copy of the base with its bytes forced to disk, and what the products of the adapter's factors
alone take. ``modelhub merge`` runs twice: with digests to compute, and with files that ``modelhub intake`` knows, as
those of a library are; none of the others digests anything. Beside it run sd-mecha and diffusers
(``load_lora_weights``, ``fuse_lora``, ``save_pretrained``), each in an environment of its own that is made where it
lacks. The base comes from the page cache, which holds nothing else; the output is removed and the disk idle before each
run. Of the large files those of one architecture are there at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks import machine, peers, report
from benchmarks.build import DEFAULT_DIR
from benchmarks.measure import ANY, Summary, forget, interleaved, read_through, usual
from modelhub.convert import ConversionOptions, convert
from modelhub.lowrank import RankRule, extract
from modelhub.samples.layouts import Base, checkpoint, lora
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.weights import random_weights

RUNS: dict[str, tuple[Base, int, int]] = {"sd1": ("sd-1", 32, 1), "sdxl": ("sdxl", 64, 1), "sdxl-3": ("sdxl", 64, 3)}
"""By name: the architecture, the adapters' rank and how many there are."""

MAX_MEMORY = 400e6
"""Bytes of anonymous memory."""

_QUICK_WIDTH = 0.02
MECHA_FACTOR = 6

_COPY = 'cp --reflink=never "$1" "$2" && sync "$2"'

_GEMM = """
import sys, torch
from safetensors import safe_open
pairs = []
for path in sys.argv[1:]:
    with safe_open(path, "pt") as file:
        for name in file.keys():
            if name.endswith("lora_up.weight"):
                down = file.get_tensor(name.replace("lora_up", "lora_down")).float().flatten(1)
                pairs.append((file.get_tensor(name).float().flatten(1), down))
for up, down in pairs:
    for first in range(0, len(up), max(1, (1 << 20) // down.shape[1])):
        up[first : first + max(1, (1 << 20) // down.shape[1])] @ down
"""

_MECHA = """
import sys, sd_mecha
from sd_mecha.extensions.builtin.merge_methods import linear
base, target, *loras = sys.argv[1:]
base = merged = sd_mecha.model(base)
for path in loras:
    change = sd_mecha.convert(sd_mecha.model(path), base)
    merged = linear.add_difference(merged, change, alpha=0.8) | base
sd_mecha.merge(merged, output=target)
"""
"""``sd_mecha.add_difference``, which says the same, raises ``AttributeError`` of LoRAs in 1.1.8."""

_DIFFUSERS = """
import sys, torch
from diffusers import DiffusionPipeline
folder, target, *loras = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, tokenizer=None, tokenizer_2=None)
names = [f"lora{n}" for n, _ in enumerate(loras)]
for name, path in zip(names, loras):
    pipeline.load_lora_weights(path, adapter_name=name)
pipeline.set_adapters(names, [0.8] * len(names))
pipeline.fuse_lora(adapter_names=names)
pipeline.unload_lora_weights()
pipeline.save_pretrained(target, safe_serialization=True)
"""

METHODS = {
    "copy": "`cp` and `sync`",
    "products": "the products of the factors alone",
    "modelhub": "`modelhub merge`",
    "known": "`modelhub merge`, of files that the catalog knows",
    "mecha": "sd-mecha",
    "diffusers": "diffusers, `fuse_lora` and `save_pretrained`",
}
_PEERS = {"mecha": "sd-mecha", "diffusers": "diffusers"}


_OURS = [sys.executable, "-m", "modelhub"]


def command(
    method: str, base: str, folder: str, loras: Sequence[str], target: str, pythons: Mapping[str, str], catalog: str
) -> list[str]:
    """The process that merges *loras* into *base*, or *folder*, which is the same as a diffusers folder; *pythons* are
    those of the peers, by method, and *catalog* knows all files."""
    if method == "copy":
        return ["sh", "-c", _COPY, "sh", base, target]
    if method == "products":
        return [sys.executable, "-c", _GEMM, *loras]
    if method == "mecha":
        return [pythons[method], "-c", _MECHA, base, target, *loras]
    if method == "diffusers":
        return [pythons[method], "-c", _DIFFUSERS, folder, target, *loras]
    given = [word for path in loras for word in ("--lora", f"{path}:0.8")]
    asked = catalog if method == "known" else f"{target}.none.db"
    return ["env", f"MODELHUB_CATALOG={asked}", *_OURS, "merge", base, *given, "-o", target]


def files(name: str, directory: str, *, quick: bool = False) -> tuple[str, list[str]]:
    """The base and the adapters of the run *name*, made in *directory* where they lack; with *quick*, narrow ones."""
    architecture, rank, count = RUNS[name]
    base = os.path.join(directory, f"{architecture}-fp16.safetensors")
    width = _QUICK_WIDTH if quick else 1.0
    if not os.path.exists(base):
        write_safetensors(base, random_weights(checkpoint(architecture, width=width)), {"format": "pt"})
    loras = [os.path.join(directory, f"{architecture}-rank{rank}-{n}.safetensors") for n in range(count)]
    for seed, path in enumerate(loras):
        if os.path.exists(path):
            continue
        if not quick:
            write_safetensors(path, random_weights(lora(architecture, rank), seed))
            continue
        other = os.path.join(directory, "other.safetensors")
        write_safetensors(other, random_weights(checkpoint(architecture, width=width), seed + 1), {"format": "pt"})
        extract(other, base, RankRule(4), target=path)
    return base, loras


def peak_anonymous(command: Sequence[str]) -> int:
    """The largest anonymous memory of the process *command*, in bytes, looked at every 20 ms; 0 where there is no
    ``/proc``. Mapped files and libraries, which the kernel takes back when it needs to, are not in it."""
    largest = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=usual()) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
                sizes = [int(line.split()[1]) for line in status if line.startswith("RssAnon:")]
                largest = max(largest, *sizes, 0)
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return largest * 1024


def measure(
    name: str, directory: str, pythons: Mapping[str, str], runs: int, *, quick: bool = False
) -> tuple[dict[str, Summary], int]:
    """Seconds and bytes of each method in the run *name*, and our bytes of anonymous memory in a run of its own.

    Of the peers those run that *pythons* has. The files are made in *directory* where they lack.
    """
    architecture, _, _ = RUNS[name]
    methods = [method for method in METHODS if method in pythons or method not in _PEERS]
    base, loras = files(name, directory, quick=quick)
    folder = os.path.join(directory, f"{architecture}-fp16")
    if "diffusers" in methods and not os.path.exists(folder):
        convert(base, folder, options=ConversionOptions(layout="diffusers"))
    target = os.path.join(directory, f"{name}.merged.safetensors")

    def prepare(method: str) -> None:
        _remove(target)
        _remove(f"{target}.recipe.toml")
        os.sync()
        read, other = (folder, base) if method == "diffusers" else (base, folder)
        if os.path.exists(other):
            forget(other)  # memory may not hold both and the output
        for path in (read, *loras):
            read_through(path)

    catalog = os.path.join(directory, f"{name}.catalog.db")
    commands = {method: command(method, base, folder, loras, target, pythons, catalog) for method in methods}
    try:
        taken = [*_OURS, "intake", "--quiet", base, *loras, "--catalog", catalog]
        subprocess.run(taken, stdout=subprocess.DEVNULL, env=usual(), check=True)
        found = interleaved(commands, runs, before=prepare, expected=dict.fromkeys(_PEERS, ANY))
        prepare("modelhub")
        return found, peak_anonymous(commands["modelhub"])
    finally:
        for path in (target, f"{target}.recipe.toml", catalog):
            _remove(path)


def section(name: str, found: Mapping[str, Summary], anonymous: int) -> list[str]:
    """The results of the run *name*, and our bytes of *anonymous* memory, as Markdown."""
    architecture, rank, count = RUNS[name]
    lines = [f"## {architecture}, fp16, {count} of rank {rank}", ""]
    rows = [
        (
            METHODS[method],
            f"{report.seconds(each.wall)} [{each.least:.2f}-{each.most:.2f}]",
            report.seconds(each.processor),
            report.megabytes(each.peak_memory),
        )
        for method, each in found.items()
        if each.exit_codes == (0,)
    ]
    lines += [*report.table(("", "wall", "processor", "peak memory"), rows), ""]
    most = 1.1 * (found["copy"].wall + found["products"].wall)
    failed = [METHODS[method] for method, each in found.items() if each.exit_codes != (0,)]
    lines.append(
        f"* At most the copy, the products and a tenth, {most:.2f} s: {_each(found, lambda wall: wall <= most)}."
    )
    if anonymous:
        under = f"* Under {report.megabytes(MAX_MEMORY)} of anonymous memory: {report.judged(anonymous < MAX_MEMORY)}"
        lines.append(f"{under} ({report.megabytes(anonymous)}).")
    if failed:
        lines.append(f"* Could not merge this: {', '.join(failed)}.")
    if "mecha" in found and METHODS["mecha"] not in failed:
        mecha = found["mecha"].wall
        judged = _each(found, lambda wall: mecha >= MECHA_FACTOR * wall, lambda wall: f" ({mecha / wall:.1f})")
        lines.append(f"* {MECHA_FACTOR} times as fast as sd-mecha: {judged}.")
    return [*lines, ""]


def _each(
    found: Mapping[str, Summary], met: Callable[[float], bool], told: Callable[[float], str] = lambda _: ""
) -> str:
    """Whether a goal is *met* by the seconds that a merge takes, and what is *told* of them; then of known files."""
    ours, known = (f"{report.judged(met(wall))}{told(wall)}" for wall in (found["modelhub"].wall, found["known"].wall))
    return f"{ours}; of known files {known}"


def _clear(name: str, directory: str, before: set[str]) -> None:
    """Remove the files of the run *name* from *directory*, but for those that were there *before*."""
    architecture, _, _ = RUNS[name]
    for each in os.listdir(directory):
        if each.startswith(f"{architecture}-") and each not in before:
            _remove(os.path.join(directory, each))


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the tables to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(RUNS)} (default: all)")
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie, 23 GB (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each method (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="do not install and run the other programs")
    parser.add_argument("--quick", action="store_true", help="narrow files, one run, no peers, nothing kept")
    options = parser.parse_args(arguments)
    if options.quick:
        with tempfile.TemporaryDirectory() as directory:
            for name in options.names or RUNS:
                print("\n".join(section(name, *measure(name, directory, {}, 1, quick=True))))
        return
    directory = os.path.abspath(options.dir)
    os.makedirs(directory, exist_ok=True)
    installed = [] if options.no_peers else peers.install(directory, peers.MERGERS)
    homes = {peer.package: peers.home_of(directory, peer) for peer in installed}
    pythons = {method: os.path.join(homes[name], "bin", "python") for method, name in _PEERS.items() if name in homes}
    lines: list[str] = []
    names = list(options.names or RUNS)
    before = set(os.listdir(directory))
    for number, name in enumerate(names):
        lines += section(name, *measure(name, directory, pythons, options.runs))
        if number + 1 == len(names) or RUNS[names[number + 1]][0] != RUNS[name][0]:
            _clear(name, directory, before)
    lacking = [METHODS[method] for method in _PEERS if method not in pythons]
    if lacking:
        lines += [f"Not installed, and not measured: {', '.join(lacking)}.", ""]
    about = machine.description(directory, ("torch",))
    about += [f"* {peers.versions(installed)}" if installed else "* no peers"]
    told = ["each run once" if options.runs == 1 else f"median [least-most] of {options.runs} runs", "in turn"]
    note = (
        "`modelhub merge` also compares what it copied with the base, and digests base and adapters for its recipe "
        "where no catalog knows their digests."
    )
    report.write("merge.md", ["# Merging", "", f"Whole processes: {', '.join(told)}.", note, "", *about, "", *lines])


if __name__ == "__main__":
    main()
