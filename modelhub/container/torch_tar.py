"""Tar archives, and PyTorch checkpoints from before 0.1.10, which are tars of four members.

torch tries ``tarfile`` before its legacy format, and unpickles from ``storages``, ``tensors`` and ``pickle`` one after
the other. A checkpoint whose tar is nothing but those members, as torch wrote them, is understood in full; in any other
one the pickles that can be found are traced. Members of other tars are opened as files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.archive import OpenedMember, gathered
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting, Part, open_inside
from modelhub.container.programs import MAX_PROGRAMS, read_programs
from modelhub.container.tar_tensors import Broken, MemberStream, read_storages, read_tensors
from modelhub.pickles import Elements, Surroundings, read_state_dict
from modelhub.source import Source
from modelhub.tensors import StateDict, TensorInfo

_ORDER = ("sys_info", "storages", "tensors", "pickle")
_BLOCK = 512
_MAX_MEMBERS = 1000
_MAX_PADDING = 1 << 20


class _Member(NamedTuple):
    """A member as its own header block says; ``strict`` when that says nothing else than name, size and the like."""

    name: str
    start: int
    size: int
    strict: bool

    @property
    def end(self) -> int:
        return self.start + self.size


def read_tar(source: Source, nesting: Nesting) -> Container:
    """Open a tar archive: ``torch-tar`` when it has a member that torch would unpickle, else ``tar``."""
    members = list(_members(source))
    if any(member.name in _ORDER for member in members):
        return _checkpoint(source, members, nesting)
    others = [_opened(source, member, nesting) for member in members if member.size]
    # headers of many dialects (links, sparse files, long names) are not followed, so this is never all of it
    odd = Anomaly("container.not-examined", "a tar archive: its members were opened, its other headers were not")
    return gathered("tar", source, others, [odd], [Skipped("a tar archive is not examined in full")])


def _opened(source: Source, member: _Member, nesting: Nesting) -> OpenedMember:
    part = Part(source, member.name, member.start, member.size)
    return OpenedMember(member.name, member.start, open_inside(part, member.name, nesting))


def _checkpoint(source: Source, members: list[_Member], nesting: Nesting) -> Container:
    reading = _Reading(source, nesting)
    others: list[OpenedMember] = []
    for member in sorted(members, key=lambda each: _ORDER.index(each.name) if each.name in _ORDER else -1):
        if member.name in _ORDER:
            reading.take(member)
        elif member.size:
            others.append(_opened(source, member, nesting))
        if len(reading.programs) > MAX_PROGRAMS + reading.described:
            reading.problem = reading.problem or "it has more pickles than are looked at"
            break
    if reading.problem is None and not _is_strict(source, members):
        reading.problem = "its tar is not as torch wrote it"
    anomalies, skipped = reading.anomalies, reading.skipped
    if reading.problem is not None:
        message = f"a PyTorch checkpoint in the form of before 0.1.10 that is not understood in full: {reading.problem}"
        anomalies = [Anomaly("container.not-examined", message), *anomalies]
        skipped = [Skipped("a PyTorch tar that is not understood in full"), *skipped]
    found = gathered("torch-tar", source, others, anomalies, skipped)
    return Container(
        "torch-tar",
        source.name,
        source,
        reading.state_dict,
        pickles=(*reading.programs, *found.pickles),
        anomalies=found.anomalies,
        skipped=found.skipped,
    )


class _Reading:
    """What was gathered of the four members so far, taken in torch's order; ``problem`` is the first that there was."""

    def __init__(self, source: Source, nesting: Nesting) -> None:
        self.source = source
        self.nesting = nesting
        self.programs: list[PickleProgram] = []
        self.anomalies: list[Anomaly] = []
        self.skipped: list[Skipped] = []
        self.storages: dict[int | str, Elements] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.state_dict: StateDict | None = None
        self.problem: str | None = None
        self.described = 0

    def take(self, member: _Member) -> None:
        if member.name in ("storages", "tensors"):
            self._take_stream(member)
            return
        role = "object" if member.name == "pickle" else "other"
        programs = self._trace(member, member.start, role)
        if role == "object":
            reading = read_state_dict(programs[0].trace, Surroundings({}, self.tensors))
            self.state_dict = reading.state_dict if self.problem is None else None
            self.anomalies += (
                odd._replace(member=member.name, offset=odd.offset - member.start if odd.offset is not None else None)
                for odd in reading.anomalies
            )

    def _take_stream(self, member: _Member) -> None:
        stream = MemberStream(self.source, member.name, member.start, member.end)
        try:
            if member.name == "storages":
                self.storages = read_storages(stream)
            else:
                self.tensors = read_tensors(stream, self.storages)
        except Broken as broken:
            self.problem = self.problem or str(broken)
        self.programs += stream.programs
        self.described += len(stream.programs)
        if stream.position < member.end and stream.programs[-1].trace.stopped:
            self._trace(member, stream.position, "other")

    def _trace(self, member: _Member, start: int, role: str) -> tuple[PickleProgram, ...]:
        """The pickles in *member* from *start* on."""
        found = read_programs(self.source, start, member.end, member.name, role, nesting=self.nesting)
        self.programs += found.programs
        if role == "object" or start == member.start:
            self.anomalies += found.anomalies
            self.skipped += found.skipped
        else:
            self.anomalies += (odd for odd in found.anomalies if odd.rule == "pickle.nested-limit")
        return found.programs


def _is_strict(source: Source, members: list[_Member]) -> bool:
    """Whether the tar has torch's members once each and nothing else, and ends in zeros."""
    if sorted(member.name for member in members) != sorted(_ORDER) or not all(member.strict for member in members):
        return False
    end = max(member.end for member in members)
    rest = source.size - end
    return 0 <= rest <= _MAX_PADDING and not source.read_at(end, rest).strip(b"\0")


def _members(source: Source) -> Iterator[_Member]:
    """The members, as their own header blocks say (POSIX ustar)."""
    position = 0
    for _ in range(_MAX_MEMBERS):
        header = source.read_at(position, _BLOCK)
        if len(header) < _BLOCK or not header[0]:
            return
        name, _, after = header[:100].partition(b"\0")
        try:
            size = _number(header[124:136])
        except ValueError:
            return
        if size < 0:
            return
        start = position + _BLOCK
        held = min(size, max(0, source.size - start))
        plain = header[156:157] in (b"0", b"\0") and not any(header[157:257]) and not any(header[345:500])
        padding = source.read_at(start + size, -size % _BLOCK)
        strict = plain and held == size and not any(after) and not any(padding) and _has_checksum(header)
        yield _Member(name.decode("utf-8", "backslashreplace").removeprefix("./"), start, held, strict)
        position = start + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _number(field: bytes) -> int:
    """A number in octal digits or, as GNU's tar writes large ones, in binary after a first byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _has_checksum(header: bytes) -> bool:
    """Whether the header's bytes, those of its checksum taken as spaces, add up to it."""
    try:
        stated = int(header[148:156].split(b"\0", 1)[0].strip(), 8)
    except ValueError:
        return False
    return stated == sum(header[:148]) + 8 * 0x20 + sum(header[156:])
