"""How long a conversion takes, and how much memory: ``python -m benchmarks.convert``.

The yardstick is a plain copy of the source with its bytes forced to disk, because no converter that keeps all bytes can
be faster than that. Beside it run the scripts that people write with torch, and the way of the conversion script in the
safetensors repository (``bindings/python/convert.py``): load, write, load again, compare. Warm runs read the source
from the page cache; before cold ones it is thrown out of it. The output is removed and the disk is idle before each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import machine, report
from benchmarks.build import DEFAULT_DIR, FILES, build
from benchmarks.measure import Summary, forget, interleaved, read_through

MAX_MEMORY = 100e6
MIN_SPEEDUP = 4.0
MAX_VERIFY_RATIO = 1.1

_COPY = """
import os, shutil, sys
shutil.copyfile(sys.argv[1], sys.argv[2])
descriptor = os.open(sys.argv[2], os.O_RDWR)
os.fsync(descriptor)
"""

_LOAD = """
import sys, torch
from safetensors.torch import load_file, save_file
loaded = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap={mmap})
loaded = loaded.get("state_dict", loaded)
{change}
"""

_TORCH = (
    _LOAD
    + """
save_file(loaded, sys.argv[2], metadata={{"format": "pt"}})
"""
)

_SCRIPT = (
    _LOAD
    + """
loaded = {{name: tensor.contiguous() for name, tensor in loaded.items()}}
save_file(loaded, sys.argv[2], metadata={{"format": "pt"}})
again = load_file(sys.argv[2])
for name, tensor in loaded.items():
    assert torch.equal(tensor, again[name]), name
"""
)

_COMPARE = """
import sys, torch
from safetensors import safe_open
loaded = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap=sys.argv[3] == "mmap")
loaded = loaded.get("state_dict", loaded)
{change}
as_bytes = lambda tensor: tensor.contiguous().reshape(-1).view(torch.uint8)
with safe_open(sys.argv[2], framework="pt") as converted:
    assert set(converted.keys()) == set(loaded), set(converted.keys()) ^ set(loaded)
    for name, expected in loaded.items():
        tensor = converted.get_tensor(name)
        assert tensor.shape == expected.shape and tensor.dtype == expected.dtype, name
        assert torch.equal(as_bytes(tensor), as_bytes(expected)), name
print(len(loaded))
"""

_HASH = """
import hashlib, sys, threading
block = memoryview(bytearray(1 << 20))
def hashed(size):
    sha256 = hashlib.sha256()
    for _ in range(size >> 20):
        sha256.update(block)
threads = [threading.Thread(target=hashed, args=(int(size),)) for size in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

METHODS = {
    "copy": "`cp` and `sync`",
    "modelhub": "`modelhub convert`",
    "digests": "`modelhub convert --digests`",
    "sha256": "SHA-256 of as many bytes, of memory",
    "torch-mmap": "`torch.load(mmap=True)` and `save_file`",
    "torch": "`torch.load` and `save_file`",
    "script": "load, save, load and compare",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One conversion: the file, the options, the same change in Python, and how many times the copy it may take.

    ``with_digests`` is the same with the SHA-256 of both sides; ``written`` is the output's part of the source's size.
    """

    title: str
    file: str
    options: tuple[str, ...] = ()
    change: str = ""
    most: float = 1.1
    with_digests: float = 1.6
    written: float = 1.0


_HALF = "loaded = {k: v.half() if v.dtype == torch.float32 and k not in kept else v for k, v in loaded.items()}"
_SCHEDULE = """kept = {"betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "logvar",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1",
    "posterior_mean_coef2"}"""

ROWS: dict[str, Row] = {
    "sd1-fp16": Row("SD 1, fp16, torch zip", "sd1-ckpt"),
    "sd1-fp32": Row("SD 1, fp32, torch zip", "sd1-fp32-ckpt"),
    "sdxl-fp16": Row("SDXL, fp16, torch zip", "sdxl-ckpt"),
    "sd1-legacy": Row("SD 1, fp16, torch before 1.6", "sd1-legacy"),
    "sd1-pruned": Row(
        "SD 1 with averages, fp32, pruned",
        "sd1-ema-ckpt",
        ("--prune",),
        'loaded = {k: v for k, v in loaded.items() if not k.startswith("model_ema.")}',
        written=0.55,
    ),
    "sd1-halved": Row(
        "SD 1, fp32 to fp16", "sd1-fp32-ckpt", ("--dtype", "fp16"), f"{_SCHEDULE}\n{_HALF}", 1.5, 2.0, 0.5
    ),
}
"""What is measured. The ratio with digests of a cast is no goal of its own."""


def command(method: str, source: str, target: str, row: Row | None = None) -> list[str]:
    """The process that turns *source* into *target*, as *row* says."""
    row = row or Row("", "")
    if method == "copy":
        if sys.platform == "linux":
            return ["sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", source, target]
        return [sys.executable, "-c", _COPY, source, target]
    if method in ("modelhub", "digests"):
        extra = ["--digests"] if method == "digests" else []
        return [sys.executable, "-m", "modelhub", "convert", source, target, "--force", *row.options, *extra]
    if method == "sha256":
        read = os.path.getsize(source)
        return [sys.executable, "-c", _HASH, str(read), str(int(read * row.written))]
    code = _SCRIPT if method == "script" else _TORCH
    return [sys.executable, "-c", code.format(mmap=method == "torch-mmap", change=row.change), source, target]


def measure(
    source: str, methods: Sequence[str], runs: int, *, row: Row | None = None, cold: bool = False
) -> dict[str, Summary]:
    """Seconds and bytes of each of *methods* on the file *source*, the output beside it."""
    target = source + ".converted.safetensors"

    def prepare(_: str) -> None:
        if os.path.exists(target):
            os.remove(target)
        os.sync()
        if cold:
            forget(source)
        else:
            read_through(source)

    try:
        return interleaved({m: command(m, source, target, row) for m in methods}, runs, before=prepare)
    finally:
        if os.path.exists(target):
            os.remove(target)


def measure_verify(source: str, runs: int) -> dict[str, Summary]:
    """Seconds that ``modelhub verify OUT --source SRC`` takes, beside reading both files once, from disk."""
    target = source + ".verified.safetensors"

    def prepare(_: str) -> None:
        os.sync()
        forget(source)
        forget(target)

    try:
        subprocess.run(command("modelhub", source, target), check=True, stdout=subprocess.DEVNULL)
        verify = [sys.executable, "-m", "modelhub", "verify", target, "--source", source]
        return interleaved({"read": ["cat", source, target], "verify": verify}, runs, before=prepare)
    finally:
        if os.path.exists(target):
            os.remove(target)


def equal_tensors(source: str, row: Row | None = None) -> int:
    """Convert *source* once more and compare every tensor's bytes with what torch makes of it, in a process apart.

    Returns how many tensors were compared. Raises ``CalledProcessError`` where one differs.
    """
    row = row or Row("", "")
    target = source + ".compared.safetensors"
    try:
        subprocess.run(command("modelhub", source, target, row), check=True, stdout=subprocess.DEVNULL)
        way = "read" if "legacy" in source else "mmap"  # torch maps its zip format only
        done = subprocess.run(
            [sys.executable, "-c", _COMPARE.format(change=row.change), source, target, way],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(done.stdout)
    finally:
        if os.path.exists(target):
            os.remove(target)


def section(row: Row, source: str, warm: dict[str, Summary], cold: dict[str, Summary], tensors: int) -> list[str]:
    """One conversion's results as Markdown."""
    lines = [f"## {row.title}, {report.gigabytes(os.path.getsize(source))}", ""]
    rows = []
    for method, found in warm.items():
        chilled = cold.get(method)
        rows.append(
            (
                METHODS[method],
                f"{report.seconds(found.wall)} [{found.least:.2f}-{found.most:.2f}]",
                f"{found.wall / warm['copy'].wall:.2f}",
                f"{report.seconds(chilled.wall)} [{chilled.least:.2f}-{chilled.most:.2f}]" if chilled else "-",
                f"{chilled.wall / cold['copy'].wall:.2f}" if chilled else "-",
                report.seconds(found.processor),
                report.megabytes(max(found.peak_memory, chilled.peak_memory if chilled else 0)),
            )
        )
    columns = ("", "warm", "of the copy", "cold", "of the copy", "processor", "peak memory")
    lines += [*report.table(columns, rows), ""]
    lines.append(f"* All {tensors:,} tensors have the bytes that torch gives them.")
    goals = {"modelhub": row.most, "digests": row.with_digests}
    for method, most in goals.items():
        if method in warm:
            ratio = warm[method].wall / warm["copy"].wall
            lines.append(
                f"* {METHODS[method]} at most {most} times the copy: {report.judged(ratio <= most)} ({ratio:.2f})."
            )
    if "sha256" in warm:
        bound = warm["sha256"].wall / warm["copy"].wall
        lines.append(f"* The bound of that: {METHODS['sha256']}, takes {bound:.2f} times the copy by itself.")
    memory = max(warm[method].peak_memory for method in goals if method in warm)
    lines.append(
        f"* Under {report.megabytes(MAX_MEMORY)}: {report.judged(memory < MAX_MEMORY)} ({report.megabytes(memory)})."
    )
    if "script" in warm and "modelhub" in warm:
        faster = warm["script"].wall / warm["modelhub"].wall
        lines.append(
            f"* At least {MIN_SPEEDUP:.0f} times as fast as load, save, load and compare: "
            f"{report.judged(faster >= MIN_SPEEDUP)} ({faster:.1f})."
        )
    return [*lines, ""]


def verify_section(title: str, found: dict[str, Summary]) -> list[str]:
    """What verifying took, as Markdown."""
    read, verify = found["read"], found["verify"]
    ratio = verify.wall / read.wall
    return [
        f"## `modelhub verify OUT --source SRC`: {title}",
        "",
        f"* {report.seconds(verify.wall)} [{verify.least:.2f}-{verify.most:.2f}], {ratio:.2f} times reading both files "
        f"from disk once ({report.seconds(read.wall)}); {report.megabytes(verify.peak_memory)}.",
        f"* At most {MAX_VERIFY_RATIO} times: {report.judged(ratio <= MAX_VERIFY_RATIO)}.",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold-runs", type=int, default=3, help="runs without the page cache (0: none)")
    peers = ("torch-mmap", "torch", "script")
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers)
    options = parser.parse_args(arguments)
    lines = ["# Conversion to safetensors", "", *__doc__.splitlines()[2:], ""]
    for key in options.what:
        row = ROWS[key]
        source = build(row.file, options.dir)
        others = [p for p in options.peers if not (p == "torch-mmap" and FILES[row.file][0].endswith("legacy.ckpt"))]
        methods = ["copy", "modelhub", "digests", "sha256", *others]
        tensors = equal_tensors(source, row)
        warm = measure(source, methods, options.runs, row=row)
        cold = measure(source, methods, options.cold_runs, row=row, cold=True) if options.cold_runs else {}
        lines += section(row, source, warm, cold, tensors)
        if key == "sd1-fp16":
            lines += verify_section(row.title, measure_verify(source, options.runs))
    lines += [
        f"Median [least-most] of {options.runs} warm and {options.cold_runs} cold runs of whole processes, in turn.",
        "`modelhub convert` also forces its output to disk, checks the checksums of the source and compares every byte",
        "with it; the torch scripts do not. With digests the SHA-256 of both files is computed as well, which takes no",
        "less than hashing as many bytes of memory in two threads: the row SHA-256.",
        "",
        *machine.description(options.dir, ("torch", "safetensors")),
    ]
    report.write("convert.md", lines)


if __name__ == "__main__":
    main()
