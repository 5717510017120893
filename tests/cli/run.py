"""Running the command line: in this process where only its answer matters, else as users do."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        import json

        return json.loads(self.out)

    def json_lines(self) -> list[Any]:
        import json

        return [json.loads(text) for text in self.out.splitlines()]


def modelhub(*arguments: str) -> Ran:
    """Run ``modelhub ARGUMENTS`` within this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return Ran(code, out.getvalue(), err.getvalue())


def process(*arguments: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m modelhub ARGUMENTS`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "modelhub", *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        timeout=120,
        check=False,
    )
