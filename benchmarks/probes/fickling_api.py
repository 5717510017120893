"""``python fickling_api.py PATH``: what fickling's Python interface says of a file or of a folder's pickles.

fickling's command line reads bare pickles only; its documented functions ``scan_zip_archive`` and ``scan_file`` read
torch's zip files too. Exit code 0: everything is likely safe; 1: something is not; 2: nothing was examined. A parse
error is an exception, and so no answer, as on its command line.
"""

from __future__ import annotations

import os
import sys
import zipfile

import fickling

EXTENSIONS = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def main() -> int:
    path = sys.argv[1]
    if not os.path.isdir(path):
        return examine(path)
    names = sorted(name for name in os.listdir(path) if name.endswith(EXTENSIONS))
    return max((examine(os.path.join(path, name)) for name in names), default=2)


def examine(path: str) -> int:
    """The exit code for one file."""
    if zipfile.is_zipfile(path):
        results = list(fickling.scan_zip_archive(path).values())
    else:
        results = [fickling.scan_file(path)]
    return int(not all(result.is_safe for result in results)) if results else 2


if __name__ == "__main__":
    sys.exit(main())
