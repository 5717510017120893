"""Tar archives, and PyTorch checkpoints from before 0.1.10, which are tars of four members.

torch tries ``tarfile`` before its legacy format, and unpickles from ``storages``, ``tensors`` and ``pickle`` one after
the other. No model is distributed in this form any more: the pickles that stand at the beginning of these members are
traced, the tensors are not read, and the file is never fully examined. Members of other tars are opened as files.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelhub.anomalies import Anomaly
from modelhub.container.archive import OpenedMember, gathered
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting, Part, open_inside
from modelhub.container.programs import MAX_PROGRAMS, Programs, read_programs
from modelhub.source import Source

_TORCH_MEMBERS = frozenset({"sys_info", "storages", "tensors", "pickle"})
_BLOCK = 512
_MAX_MEMBERS = 1000


def read_tar(source: Source, nesting: Nesting) -> Container:
    """Open a tar archive: ``torch-tar`` when it has a member that torch would unpickle, else ``tar``."""
    programs: list[PickleProgram] = []
    inner: list[Programs] = []
    others: list[OpenedMember] = []
    kind = "tar"
    for name, start, size in _members(source):
        if name in _TORCH_MEMBERS:
            kind = "torch-tar"
            role = "object" if name == "pickle" else "other"
            inner.append(read_programs(source, start, start + size, name, role, nesting=nesting))
            programs += inner[-1].programs
        elif size:
            others.append(OpenedMember(name, start, open_inside(Part(source, name, start, size), name, nesting)))
        if len(programs) > MAX_PROGRAMS:
            break
    if kind == "tar":
        # headers of many dialects (links, sparse files, long names) are not followed, so this is never all of it
        odd = Anomaly("container.not-examined", "a tar archive: its members were opened, its other headers were not")
        skipped = Skipped("a tar archive is not examined in full")
    else:
        message = "a PyTorch checkpoint in the form of before 0.1.10: its pickles were looked at, its tensors were not"
        odd = Anomaly("container.not-examined", message)
        skipped = Skipped("the tensor data of a PyTorch tar is not examined")
    found = gathered(kind, source, others, [odd], [skipped])
    limits = tuple(each for one in inner for each in one.anomalies if each.rule == "pickle.nested-limit")
    return Container(
        kind,
        source.name,
        source,
        pickles=(*programs, *found.pickles),
        anomalies=(*found.anomalies, *limits),
        skipped=found.skipped,
    )


def _members(source: Source) -> Iterator[tuple[str, int, int]]:
    """Name, start and size of each member, as its own header block says (POSIX ustar)."""
    position = 0
    for _ in range(_MAX_MEMBERS):
        header = source.read_at(position, _BLOCK)
        if len(header) < _BLOCK or not header[0]:
            return
        name = header[:100].split(b"\0", 1)[0].decode("utf-8", "backslashreplace").removeprefix("./")
        try:
            size = int(header[124:136].split(b"\0", 1)[0].strip() or b"0", 8)
        except ValueError:
            return
        if size < 0:
            return
        start = position + _BLOCK
        yield name, start, min(size, max(0, source.size - start))
        position = start + (size + _BLOCK - 1) // _BLOCK * _BLOCK
