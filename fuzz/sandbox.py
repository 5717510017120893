"""The child process in which CPython's unpicklers run generated programs: ``python -m fuzz.sandbox``.

Requests come on standard input, answers go to standard output (see :mod:`fuzz.workers`). While a program runs, an audit
hook writes down every event and raises, so that nothing which the interpreter audits (imports, files, processes,
sockets, compiled code) happens. The process can open no file and write to none; memory is limited, and its parent
limits its time.
"""

from __future__ import annotations

import codecs
import copyreg
import io
import pickle
import resource
import sys
from collections.abc import Iterator
from typing import Any

from fuzz.canonical import canonical
from fuzz.standins import EXTENSIONS, Given, World, fingerprint, journal, look
from fuzz.workers import serve

MEMORY = 1 << 30
_REAL = World(real=True)
_INERT = World(real=False)


class Blocked(BaseException):
    """Raised by the audit hook; no ``except Exception`` catches it."""


class _Guard:
    """Writes audit events down and blocks them while it is active."""

    def __init__(self) -> None:
        self.active = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.active and event != "sys.unraisablehook":
            self.active = False
            journal.note("event", event, ascii(args)[:200])
            self.active = True
            raise Blocked(event)


def _unpicklers(world: World) -> dict[str, type]:
    """CPython's unpickler in C, and its twin in Python, that find names in *world*."""

    class InC(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return world.find(module, name)

        def persistent_load(self, pid: Any) -> Any:
            return _given(pid)

    class InPython(pickle._Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return world.find(module, name)

        def persistent_load(self, pid: Any) -> Any:
            return _given(pid)

    return {"C": InC, "Python": InPython}


def _given(pid: Any) -> Any:
    """As torch's legacy loader: a class for ``('module', class, ...)``, else an object."""
    journal.note("persistent")
    if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
        return pid[1]
    return Given(pid)


def _buffers() -> Iterator[bytes]:
    while True:
        journal.note("buffer")
        yield b"out of band"


def observe(guard: _Guard, cls: type, request: dict[str, Any], values: bool) -> dict[str, Any]:
    """Load *request*'s stream with an unpickler *cls*, and say what happened.

    The answer has ``finished`` (loads that came to their end), ``ends`` (the stream's position after each of them),
    ``error`` (the exception that ended it), ``effects`` and, if *values*, the canonical ``values``.
    """
    journal.effects = []
    raw = io.BytesIO(request["data"].encode("latin-1"))
    stream: Any = io.BufferedReader(raw) if request["buffered"] else raw
    buffers = _buffers() if request["buffers"] else None
    loaded: list[Any] = []
    ends: list[int] = []
    error = None
    copyreg._extension_cache.clear()  # type: ignore[attr-defined]
    guard.active = True
    try:
        for _ in range(request["loads"]):
            loaded.append(cls(stream, encoding=request["encoding"], buffers=buffers).load())
            ends.append(stream.tell())
    except BaseException as problem:
        error = type(problem).__name__
    guard.active = False
    return {
        "finished": len(loaded),
        "ends": ends,
        "error": error,
        "effects": journal.effects,
        "values": [canonical(value, look) for value in loaded] if values else [],
    }


def main() -> None:
    """Answer requests until standard input ends."""
    for code, (module, name) in EXTENSIONS.items():
        copyreg.add_extension(module, name, code)
    for codec in ("raw_unicode_escape", "unicode_escape", "ascii", "latin1", "utf-8"):
        codecs.lookup(codec)  # the unpicklers' own, which they import when they first need them
    sys.unraisablehook = lambda _: None
    guard = _Guard()
    real, inert = _unpicklers(_REAL), _unpicklers(_INERT)
    clean = fingerprint()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "real": observe(guard, real["C"], request, False),
            "python": observe(guard, real["Python"], request, False),
            "inert": observe(guard, inert["C"], request, True),
        }
        changed = [name for name, state in fingerprint().items() if state != clean[name]]
        if changed:
            seen["changed"] = changed
        return seen

    limits: list[tuple[int, int]] = [(resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)]
    limits += [(resource.RLIMIT_NOFILE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NPROC, 0)]
    for limit, most in limits:
        resource.setrlimit(limit, (most, most))
    serve(answer, last=lambda seen: "changed" in seen)


if __name__ == "__main__":
    main()
