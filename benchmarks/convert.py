"""How long a conversion takes, and how much memory: ``python -m benchmarks.convert``.

The yardstick is a plain copy of the same file with its bytes forced to disk, because no converter can be faster than
that. Beside it run the two scripts that people write with torch. All of them read the file from the page cache; the
output is removed and the disk is idle before each run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import machine, report
from benchmarks.build import DEFAULT_DIR, FILES, build
from benchmarks.measure import Summary, interleaved, read_through

MAX_RATIO = 1.5
MAX_MEMORY = 250e6

_COPY = """
import os, shutil, sys
shutil.copyfile(sys.argv[1], sys.argv[2])
descriptor = os.open(sys.argv[2], os.O_RDWR)
os.fsync(descriptor)
"""

_TORCH = """
import sys, torch
from safetensors.torch import save_file
loaded = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap={mmap})
save_file(loaded.get("state_dict", loaded), sys.argv[2], metadata={{"format": "pt"}})
"""

_COMPARE = """
import sys, torch
from safetensors import safe_open
loaded = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap=sys.argv[3] == "mmap")
loaded = loaded.get("state_dict", loaded)
as_bytes = lambda tensor: tensor.contiguous().reshape(-1).view(torch.uint8)
with safe_open(sys.argv[2], framework="pt") as converted:
    assert set(converted.keys()) == set(loaded), set(converted.keys()) ^ set(loaded)
    for name, expected in loaded.items():
        tensor = converted.get_tensor(name)
        assert tensor.shape == expected.shape and tensor.dtype == expected.dtype, name
        assert torch.equal(as_bytes(tensor), as_bytes(expected)), name
print(len(loaded))
"""

METHODS = {
    "copy": "`cp` and `sync`",
    "modelhub": "`modelhub convert`",
    "torch-mmap": "`torch.load(mmap=True)` and `save_file`",
    "torch": "`torch.load` and `save_file`",
}


def command(method: str, source: str, target: str) -> list[str]:
    """The process that turns *source* into *target*."""
    if method == "copy":
        if sys.platform == "linux":
            return ["sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", source, target]
        return [sys.executable, "-c", _COPY, source, target]
    if method == "modelhub":
        return [sys.executable, "-m", "modelhub", "convert", source, target, "--force"]
    return [sys.executable, "-c", _TORCH.format(mmap=method == "torch-mmap"), source, target]


def measure(source: str, methods: Sequence[str], runs: int) -> dict[str, Summary]:
    """Seconds and bytes of each of *methods* on the file *source*, the output beside it."""
    target = source + ".converted.safetensors"

    def prepare() -> None:
        if os.path.exists(target):
            os.remove(target)
        os.sync()
        read_through(source)

    try:
        return interleaved({m: command(m, source, target) for m in methods}, runs, before=prepare)
    finally:
        if os.path.exists(target):
            os.remove(target)


def equal_tensors(source: str) -> int:
    """Convert *source* once more and compare every tensor's bytes with what ``torch.load`` reads, in a process apart.

    Returns how many tensors were compared. Raises ``CalledProcessError`` where one differs.
    """
    target = source + ".compared.safetensors"
    try:
        subprocess.run(command("modelhub", source, target), check=True, stdout=subprocess.DEVNULL)
        way = "read" if "legacy" in source else "mmap"  # torch maps its zip format only
        done = subprocess.run(
            [sys.executable, "-c", _COMPARE, source, target, way], check=True, capture_output=True, text=True
        )
        return int(done.stdout)
    finally:
        if os.path.exists(target):
            os.remove(target)


def section(key: str, source: str, results: dict[str, Summary], tensors: int) -> list[str]:
    """One file's results as Markdown."""
    base, ours = results["copy"], results["modelhub"]
    rows = [
        (
            METHODS[method],
            f"{report.seconds(r.wall)} [{r.least:.2f}-{r.most:.2f}]",
            f"{r.wall / base.wall:.2f}",
            report.seconds(r.processor),
            report.megabytes(r.peak_memory),
        )
        for method, r in results.items()
    ]
    ratio = ours.wall / base.wall
    return [
        f"## {FILES[key][1]}, {report.gigabytes(os.path.getsize(source))}",
        "",
        *report.table(("", "wall", "of the copy", "processor", "peak memory"), rows),
        "",
        f"* All {tensors:,} tensors have the bytes that `torch.load` reads.",
        f"* At most {MAX_RATIO} times the copy: {report.judged(ratio <= MAX_RATIO)} ({ratio:.2f}). "
        f"Under {report.megabytes(MAX_MEMORY)}: {report.judged(ours.peak_memory < MAX_MEMORY)} "
        f"({report.megabytes(ours.peak_memory)}).",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=FILES, default=["sd1-ckpt", "sdxl-ckpt"], metavar="FILE")
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=("torch-mmap", "torch"), default=("torch-mmap", "torch"))
    options = parser.parse_args(arguments)
    lines = ["# Conversion to safetensors", "", *__doc__.splitlines()[2:], ""]
    for key in options.what:
        source = build(key, options.dir)
        peers = [p for p in options.peers if not (p == "torch-mmap" and key.endswith("legacy"))]
        results = measure(source, ["copy", "modelhub", *peers], options.runs)
        lines += section(key, source, results, equal_tensors(source))
    lines += [
        f"Median [least-most] of {options.runs} interleaved runs of whole processes. `modelhub convert` also forces "
        "its output to disk and compares it with the source; the torch scripts do neither.",
        "",
        *machine.description(options.dir, ("torch", "safetensors")),
    ]
    report.write("convert.md", lines)


if __name__ == "__main__":
    main()
