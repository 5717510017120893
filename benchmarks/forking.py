"""Run a command-line program over many arguments at the price of a fork each: its modules are loaded once.

A script for any Python, with nothing but the standard library::

    python forking.py ENTRY SECONDS TOGETHER < jobs

*ENTRY* is ``module:function``, or ``path/to/file.py:function``. *jobs* is a JSON list of lists of arguments. For each,
a child calls the function with ``sys.argv`` set and its output thrown away, and one line tells how it ended: the exit
code, or ``crash`` (an exception that nobody caught, a signal), or ``timeout``. One child does up to *TOGETHER* jobs, 1
for a program that expects to be started once. POSIX only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence

MEMORY = 4 << 30
"""Bytes of private memory that one child may hold."""

CRASHED = 113
"""The exit code by which a child tells that an exception came out of the program."""

Program = Callable[[], object]


def main() -> None:
    entry, seconds, together = sys.argv[1:]
    jobs = json.load(sys.stdin)
    program = load(entry)
    if jobs:
        preload(program, jobs[0], float(seconds))
    done = 0
    while done < len(jobs):
        answers = run(program, jobs[done : done + int(together)], float(seconds))
        done += len(answers)
        print("\n".join(answers), flush=True)


def load(entry: str) -> Program:
    """The function that *entry* names."""
    module, _, function = entry.rpartition(":")
    if module.endswith(".py"):
        folder, name = os.path.split(module)
        sys.path.insert(0, folder)
        module = name.removesuffix(".py")
    found = getattr(importlib.import_module(module), function)
    assert callable(found)
    return found  # type: ignore[no-any-return]


def preload(program: Program, arguments: list[str], seconds: float) -> None:
    """Import here what *program* imports on its way, so that its children need not: a child does it once and tells."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _confine()
            signal.alarm(int(seconds) + 1)
            sys.argv = ["program", *arguments]
            _called(program)
            with open(writing, "w", encoding="utf-8") as pipe:
                pipe.write("\n".join(sys.modules))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        names = pipe.read().split("\n")
    os.waitpid(child, 0)
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def run(program: Program, jobs: Sequence[list[str]], seconds: float) -> list[str]:
    """How *program* ended in one child for each of *jobs*, up to the first that it did not survive."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _become(program, jobs, writing)
    os.close(writing)
    answers: list[str] = []
    with open(reading, "rb", buffering=0) as pipe:
        while len(answers) < len(jobs):
            if not select.select([pipe], [], [], seconds)[0]:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return [*answers, "timeout"]
            code = pipe.read(1)
            if not code:
                return [*answers, _word(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))]
            answers.append(_word(code[0]))
    os.waitpid(child, 0)
    return answers


def _word(code: int) -> str:
    return "crash" if code < 0 or code == CRASHED else str(code)


def _become(program: Program, jobs: Sequence[list[str]], pipe: int) -> None:
    """Be the program, once for each of *jobs*, and never return."""
    code = CRASHED
    try:
        _confine()
        for arguments in jobs:
            sys.argv = ["program", *arguments]
            os.write(pipe, bytes((_called(program) & 0xFF,)))
        code = 0
    finally:
        os._exit(code)


def _confine() -> None:
    """A session of its own, so that it can be killed with all that it starts; limited memory; nobody to talk to."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)


def _called(program: Program) -> int:
    """The exit code that Python would give a process of *program*, but for an exception, which has one of its own."""
    try:
        result = program()
    except SystemExit as ended:
        result = 1 if isinstance(ended.code, str) else ended.code
    except BaseException:
        return CRASHED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
