"""What a command loads before it does anything: ``python -m benchmarks.startup``.

Modules are counted and not milliseconds, because the count does not depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import machine, report
from benchmarks.build import DEFAULT_DIR, build
from benchmarks.measure import interleaved

MAX_MODULES = 110
HEAVY = ("numpy", "torch", "sqlalchemy", "rich", "safetensors", "fickling", "alembic")

_COUNT = """
import sys
before = set(sys.modules)
from modelhub.cli import main
try:
    main(sys.argv[2:])
finally:
    with open(sys.argv[1], "w") as file:
        file.write(chr(10).join(sorted(set(sys.modules) - before)))
"""


def modules_loaded(arguments: Sequence[str]) -> list[str]:
    """The modules that ``modelhub ARGUMENTS`` loads beyond those of the bare interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        listing = os.path.join(folder, "modules")
        subprocess.run(
            [sys.executable, "-c", _COUNT, listing, *arguments],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with open(listing, encoding="utf-8") as file:
            return file.read().split()


def startup_lines(path: str, runs: int = 9) -> list[str]:
    """A table of what ``--help`` and the commands that judge and convert load, tried on the file *path*."""
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "converted.safetensors")
        commands = {
            "--help": ["--help"],
            "scan": ["scan", path],
            "inspect": ["inspect", path],
            "convert": ["convert", path, target, "--force"],
        }
        timed = interleaved(
            {name: [sys.executable, "-m", "modelhub", *words] for name, words in commands.items()}
            | {"(nothing)": [sys.executable, "-c", "pass"]},
            runs,
        )
        rows = []
        met = True
        for name, words in commands.items():
            modules = modules_loaded(words)
            others = [module for module in modules if module.partition(".")[0] != "modelhub"]
            met = met and len(others) <= MAX_MODULES
            heavy = ", ".join(sorted({m.partition(".")[0] for m in others} & set(HEAVY))) or "none"
            own = str(len(modules) - len(others))
            rows.append((f"`modelhub {name}`", str(len(others)), own, heavy, report.seconds(timed[name].wall)))
        rows.append(("`python -c pass`", "0", "0", "none", report.seconds(timed["(nothing)"].wall)))
    return [
        "## Start-up",
        "",
        *report.table(("", "others' modules", "our own", "heavy ones", "wall"), rows),
        "",
        f"Others' modules loaded beyond those of the bare interpreter, at most {MAX_MODULES} allowed: "
        f"{report.judged(met)}. "
        f"Heavy ones are {', '.join(HEAVY)}; only `convert` may load one, safetensors, to verify what it wrote. "
        f"The file is a LoRA of {report.megabytes(os.path.getsize(path))}.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie (default: %(default)s)")
    options = parser.parse_args(arguments)
    print("\n".join([*startup_lines(build("sdxl-lora", options.dir)), "", *machine.description(options.dir)]))


if __name__ == "__main__":
    main()
