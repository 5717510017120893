"""Run the fuzzers: ``python -m fuzz [--programs N] [--files N] [--seed S] [--jobs N] [--out FOLDER]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from fuzz.campaign import Summary, run_files, run_programs

_SLICE = 2000
_SHOWN = 50


def main() -> int:
    """Run both fuzzers, print what they saw, save what they found; 1 if they found anything."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=100_000, metavar="N", help="pickle programs to run")
    parser.add_argument("--files", type=int, default=20_000, metavar="N", help="broken files to examine")
    parser.add_argument("--seed", default=time.strftime("%Y-%m-%d"), help="default: today's date")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--out", default="build/fuzz", metavar="FOLDER", help="where reproducers are saved")
    args = parser.parse_args()
    print(f"seed {args.seed}")
    found = _run("programs", run_programs, args.programs, args).found + _run("files", run_files, args.files, args).found
    smallest = sorted({each.data: each for each in found}.values(), key=lambda each: (each.rule, len(each.data)))
    for each in smallest[:_SHOWN]:
        print(f"{each.rule}: {each.what[-300:]}\n  {each.save(args.out)}")
    print(f"{len(found)} findings")
    return 1 if found else 0


def _run(what: str, run: Callable[..., Summary], count: int, args: argparse.Namespace) -> Summary:
    started = time.monotonic()
    summary = Summary()
    slices = [range(at, min(at + _SLICE, count)) for at in range(0, count, _SLICE)]
    with ProcessPoolExecutor(args.jobs) as pool:
        for done in pool.map(run, [args.seed] * len(slices), slices):
            summary.add(done)
            print(f"\r{summary.count} {what}, {len(summary.found)} findings", end="", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    print(file=sys.stderr)
    print(f"{summary.count} {what} in {seconds:.0f} s, {summary.count / max(seconds, 0.001):.0f} per second")
    print("  verdicts: " + ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.most_common()))
    if summary.seen:
        print("  seen: " + ", ".join(f"{count} {what}" for what, count in summary.seen.most_common()))
    return summary


if __name__ == "__main__":
    sys.exit(main())
