"""All benchmarks, one after the other: ``python -m benchmarks --dir DIR``; tables go to ``benchmarks/results``."""

from __future__ import annotations

import argparse

from benchmarks import convert, corpus, identify, scan
from benchmarks.build import DEFAULT_DIR


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie, some 25 GB (default: %(default)s)")
    directory = parser.parse_args().dir
    corpus.main(["--dir", directory])
    scan.main(["--dir", directory])
    convert.main(["--dir", directory])
    identify.main()


main()
