"""The program of the child process in which fickling reads pickles (started by :mod:`modelhub.scan.fickling_child`).

``fickling_worker.py TASK SECONDS BYTES PATH``: *TASK* is ``opinion`` or ``decompile``; *SECONDS* of processor time and
*BYTES* of address space are its limits where the system has them; *PATH* is a JSON list of the places of modules. Its
standard input is a line with a JSON list of pairs and then as many pickle programs, back to back; for each it writes
one line of JSON. A pair is the length of a program and how much of that is surely one: where fickling makes no sense of
all of it, it is asked about that part.

fickling only reads: nothing here unpickles. So that this need not be believed, the process is sealed before it reads
the first program: from then on whatever an audit hook can see (an import, a file, a process, a socket, compiled code,
an unpickler that looks up a name) ends it.
"""

from __future__ import annotations

import ast
import codecs
import json
import os
import re
import sys
from typing import Any

NOT_INSTALLED = 4
SEALED = 5
"""Exit statuses: there is no fickling; it tried to do more than to read."""

MAX_OBJECTIONS = 2_000
MAX_LINES = 20_000
MAX_TEXT = 1_000
"""Objections to, imports in and lines of one program, and characters of one text, that are told."""

_HARMLESS = frozenset({"builtins.id", "cpython._PySys_ClearAuditHooks"})
_CODECS = ("ascii", "latin-1", "utf-8", "raw-unicode-escape", "unicode-escape")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class _Silence:
    """A text stream that forgets: fickling prints its warnings."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def main(task: str, seconds: str, nbytes: str, path: str) -> None:
    """Answer for every program on standard input."""
    answers, programs = sys.stdout.buffer, sys.stdin.buffer
    sys.path[:] = json.loads(path)
    if not _find_fickling():
        sys.exit(NOT_INSTALLED)
    from fickling.fickle import Pickled

    answer = {"opinion": opinion, "decompile": decompiled}[task]
    answer(Pickled.load(b"N."))  # what is imported late is imported now
    sys.stdout = sys.stderr = _Silence()
    _limit(int(seconds), int(nbytes))
    _seal()
    for length, sure in json.loads(programs.readline()):
        data = programs.read(length)
        told: dict[str, Any] = {}
        for part in (data, data[:sure])[: 1 + (sure < length)]:
            try:
                told = answer(Pickled.load(part, fail_on_decode_error=False))
                break
            except Exception as error:
                told = {"failed": _ADDRESS.sub("", f"{type(error).__name__}: {error}".rstrip(": "))[:MAX_TEXT]}
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()


def opinion(pickled: Any) -> dict[str, Any]:
    """What fickling objects to: its severity, the subject (or ``None``) and the message; and the imports it sees."""
    from fickling.analysis import check_safety

    objections = sorted(  # fickling keeps unused variables in a set
        (
            (result.severity.severity, result.trigger and result.trigger[:MAX_TEXT], str(result)[:MAX_TEXT])
            for result in check_safety(pickled).results
        ),
        key=lambda told: (-told[0], told[1] or "", told[2]),
    )[:MAX_OBJECTIONS]
    imports = {
        (node.module, alias.name)
        for node in pickled.properties.imports
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if pickled.has_interpretation_error or pickled.has_resource_exhaustion:
        raise ValueError("the program cannot be followed to its end")
    return {"objections": objections, "imports": sorted(imports)[:MAX_OBJECTIONS]}


def decompiled(pickled: Any) -> dict[str, Any]:
    """The program as lines of Python, each with the offset of the opcode that made it; and how many more there are."""
    from fickling.fickle import Interpreter

    interpreter: Any = Interpreter(pickled)
    placed: list[tuple[int, ast.stmt]] = []
    try:
        while True:
            opcode = interpreter.step()
            placed += [(opcode.pos, made) for made in interpreter.module_body[len(placed) :]]
    except StopIteration:
        pass
    lines = [(pos, ast.unparse(made)[:MAX_TEXT]) for pos, made in placed[:MAX_LINES]]
    return {"lines": lines, "more": len(placed) - len(lines)}


def _find_fickling() -> bool:
    """Make ``fickling`` importable without its ``__init__``: that would load its hooks, loaders and archive readers."""
    import importlib.util
    import types

    found = importlib.util.find_spec("fickling")
    if found is None or found.submodule_search_locations is None:
        return False
    package = types.ModuleType("fickling")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["fickling"] = package
    return True


def _limit(seconds: int, nbytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has none: there is the parent's time limit alone
        return
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: nbytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in limits.items():
        try:
            resource.setrlimit(which, (most, most))
        except (OSError, ValueError):  # a lower limit is set already, or the system does not know this one
            continue


def _seal() -> None:
    """Let nothing but computing happen from now on."""
    for name in _CODECS:  # decoding the arguments of text opcodes would import these
        codecs.lookup(name)

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if event not in _HARMLESS:
            os._exit(SEALED)

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main(*sys.argv[1:])
