"""The program ``modelhub``, also as ``python -m modelhub``: a process that runs one command and ends."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

from modelhub import termination
from modelhub.cli import main

_RARELY = 50_000
_SWITCH = 0.0005
"""Seconds for which a thread keeps the interpreter while others, which read and hash, wait for it; Python's 0.005 leave
these a tenth of their speed beside one that computes, and these two fifths, or with larger blocks more, without slowing
that one."""


def run() -> NoReturn:
    """Run the command line and end the process with its exit code.

    What is imported stays to the end, and most that a command makes does too, so the garbage collector looks at it
    rarely and at neither in the end: a tenth of the time that a short scan takes.
    """
    termination.listen()
    gc.freeze()
    gc.set_threshold(_RARELY)
    sys.setswitchinterval(_SWITCH)
    code = main()
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    run()
