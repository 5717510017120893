"""Files inside files: how deep they are followed, and how what is found in them is located in the outermost one.

A file that lies in another (a member of an archive, the content of a compressed file, the bytes that a pickle hands to
torch) is opened like any file. Its pickles, anomalies and skipped parts become those of the file around it, with
``member!`` in front of their own member. What a file may hold altogether is bounded, so that no nesting takes long.

No reader knows the door of this room: a :class:`Nesting` hands it down to the readers of files that hold files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.pickles import Trace
from modelhub.source import Source

MAX_DEPTH = 4
"""How many files may lie around one that is opened."""

MAX_CALLS = 2
"""How many of them may be pickles that hand it to torch as bytes."""

MAX_INNER = 64 << 20
"""Bytes of one inner file that are unpacked into memory; of a longer one, the first :data:`MAX_PREFIX` are."""

MAX_PREFIX = 8 << 20

_MAX_FILES = 20_000
_MAX_UNPACKED = 256 << 20
_MAX_PROGRAM = 8 << 20
_TORCH_KINDS = frozenset({"torch-zip", "torch-legacy", "torch-tar", "torchscript"})


class Nesting:
    """How deep a file lies in others, what may be spent on all that the outermost one holds, and what opens it."""

    __slots__ = ("calls", "depth", "left", "opener")

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self.depth = 0
        self.calls = 0
        self.left = {"files": _MAX_FILES, "unpacked": _MAX_UNPACKED, "program": _MAX_PROGRAM}

    def inside(self, by_call: bool) -> Nesting:
        """The place of a file in this one, spending from the same."""
        inner = Nesting(self.opener)
        inner.depth, inner.calls, inner.left = self.depth + 1, self.calls + by_call, self.left
        return inner

    def charge(self, trace: Trace) -> None:
        """Count the bytes of a pickle that was followed."""
        self.left["program"] -= trace.end - trace.start

    def unpacks(self, size: int) -> bool:
        """Whether *size* bytes may be unpacked into memory; they count when they may."""
        if size > min(MAX_INNER, self.left["unpacked"]):
            return False
        self.left["unpacked"] -= size
        return True

    def refusal(self, by_call: bool) -> str | None:
        """Why no file is opened in this one any more; ``None`` when one may be."""
        if self.depth >= MAX_DEPTH or (by_call and self.calls >= MAX_CALLS):
            return "it lies deeper in other files than is looked"
        if self.left["files"] <= 0 or self.left["program"] <= 0:
            return "the file holds more other files, or larger pickles in them, than are looked at"
        return None


Opener = Callable[[Source, Nesting], Container]
"""What opens a file that lies in others as its :class:`Nesting` says."""


class Part:
    """A run of bytes of another source, as a source of its own."""

    __slots__ = ("_around", "_start", "name", "size")

    def __init__(self, around: Source, name: str, start: int, size: int) -> None:
        self.name = name
        self.size = max(0, min(size, around.size - start))
        self._around = around
        self._start = start

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)``, fewer only at the end."""
        return self._around.read_at(self._start + offset, max(0, min(length, self.size - offset)))

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* from *offset* on; returns the bytes filled."""
        return self._around.readinto_at(self._start + offset, buffer[: max(0, self.size - offset)])


def open_inside(
    source: Source, member: str, nesting: Nesting, *, whole: bool = True, by_call: bool = False
) -> Container:
    """The file *source*, which lies in another one as *member*, with everything in it located there.

    *whole* is false when *source* has only its first bytes; *by_call* true when a pickle hands it to torch. One that
    may not be opened comes back as a container that says so (``container.nested-limit``, ``pickle.nested-limit``).
    """
    rule = "pickle.nested-limit" if by_call else "container.nested-limit"
    refusal = nesting.refusal(by_call)
    if refusal is not None:
        return not_opened(source, member, rule, f"a file in this file was not opened: {refusal}")
    nesting.left["files"] -= 1
    inner = nesting.opener(source, nesting.inside(by_call))
    for program in inner.pickles:
        nesting.charge(program.trace)
    found = _located(inner, member, "nested" if by_call or inner.kind in _TORCH_KINDS else "other")
    if whole:
        return found
    message = f"only the first {source.size} of its bytes were unpacked and looked at"
    kept = [odd for odd in found.anomalies if not odd.rule.endswith(("truncated", "trailing-bytes"))]
    odd = Anomaly(rule, message, member)
    return replace(found, anomalies=(*kept, odd), skipped=(*found.skipped, Skipped(message, member)))


def not_opened(source: Source, member: str, rule: str, message: str) -> Container:
    """The container of an inner file that was not opened."""
    odd = (Anomaly(rule, message, member),)
    return Container("unknown", source.name, source, anomalies=odd, skipped=(Skipped(message, member),))


def _located(inner: Container, member: str, role: str) -> Container:
    """*inner* with the places of its pickles, anomalies and skipped parts told from the file around it.

    Only the object of a torch file may ask for tensor storages; *role* says whether *inner*'s is one.
    """

    def below(part: str | None) -> str:
        return member if part is None else f"{member}!{part}"

    def program(each: PickleProgram) -> PickleProgram:
        return replace(each, member=below(each.member), role=role if each.role == "object" else each.role)

    return replace(
        inner,
        pickles=tuple(map(program, inner.pickles)),
        anomalies=tuple(odd.inside(below(odd.member)) for odd in inner.anomalies),
        skipped=tuple(Skipped(skip.reason, below(skip.member)) for skip in inner.skipped),
    )
