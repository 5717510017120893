"""Tar archives, and PyTorch checkpoints from before 0.1.10, which are tars of four members.

torch tries ``tarfile`` before its legacy format, and unpickles from ``storages``, ``tensors`` and ``pickle`` one after
the other. No model is distributed in this form any more: the pickles that stand at the beginning of these members are
traced, the tensors are not read, and the file is never fully examined.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.programs import MAX_PROGRAMS, read_programs
from modelhub.source import Source

_TORCH_MEMBERS = frozenset({"sys_info", "storages", "tensors", "pickle"})
_BLOCK = 512
_MAX_MEMBERS = 1000


def read_tar(source: Source) -> Container:
    """Open a tar archive: ``torch-tar`` when it has a member that torch would unpickle, else ``tar``."""
    programs: list[PickleProgram] = []
    kind = "tar"
    for name, start, size in _members(source):
        if name in _TORCH_MEMBERS:
            kind = "torch-tar"
            role = "object" if name == "pickle" else "other"
            programs += read_programs(source, start, start + size, name, role).programs
        if len(programs) > MAX_PROGRAMS:
            break
    if kind == "tar":
        odd = Anomaly("container.not-examined", "a tar archive: it was recognised but not examined")
        skipped = Skipped("a tar archive is not examined")
    else:
        message = "a PyTorch checkpoint in the form of before 0.1.10: its pickles were looked at, its tensors were not"
        odd = Anomaly("container.not-examined", message)
        skipped = Skipped("the tensor data of a PyTorch tar is not examined")
    return Container(kind, source.name, source, pickles=tuple(programs), anomalies=(odd,), skipped=(skipped,))


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
