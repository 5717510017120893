"""Zip archives that are cut off: without their directory, but a torch checkpoint's layout tells what is missing.

torch writes ``data.pkl`` first, so that the tensors' names and shapes survive in any download that got past it. The
members after it are followed from local header to local header, with their sizes from the pickle (torch leaves the
sizes in local headers at 0).
"""

from __future__ import annotations

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting
from modelhub.container.programs import hand_over
from modelhub.container.torch_zip import SMALL, below_top
from modelhub.container.zip_walk import DESCRIPTOR_MAGIC, LOCAL, LOCAL_MAGIC
from modelhub.pickles import Surroundings, read_state_dict, storage_declarations, trace_pickle
from modelhub.source import Source
from modelhub.tensors import StorageRef


def read_cut_zip(source: Source, nesting: Nesting) -> Container:
    """Open a zip without its end record: ``torch-zip`` with what can be told when it is one, else ``zip``."""
    skipped: tuple[Skipped, ...] = (Skipped("the archive is cut off, so its members cannot be listed"),)
    first = _local(source, 0)
    if first is None or below_top(first[0]) != "data.pkl":
        message = "the archive is cut off: it has no end record"
        odd = Anomaly("zip.truncated", message, offset=source.size)
        return Container("zip", source.name, source, anomalies=(odd,), skipped=skipped)

    name, start = first
    trace = trace_pickle(source, start)
    programs: tuple[PickleProgram, ...] = (PickleProgram(trace, name, origin=start, source=source),)
    inner = hand_over(source, programs, nesting)
    programs, skipped = (*programs, *inner.programs), (*skipped, *inner.skipped)
    if not trace.stopped:
        odd = Anomaly("zip.truncated", "the archive is cut off inside data.pkl", offset=source.size)
        return Container("torch-zip", source.name, source, None, programs, (odd, *inner.anomalies), skipped)

    declared = {each.key: each.nbytes for each in storage_declarations(trace)}
    storages = _follow(source, name.removesuffix("data.pkl"), trace.end, declared)
    missing = sum(max(0, ref.start + ref.nbytes - source.size) for ref in storages.values())
    whole = sum(ref.start + ref.nbytes <= source.size for ref in storages.values())
    message = f"the file is cut off: at least {missing} bytes are missing"
    evidence = f"{whole} of {len(storages)} storages are complete"
    odd = Anomaly("zip.truncated", message, offset=source.size, evidence=evidence)
    reading = read_state_dict(trace, Surroundings(storages))
    anomalies = (odd, *reading.anomalies, *inner.anomalies)
    return Container("torch-zip", source.name, source, reading.state_dict, programs, anomalies, skipped)


def _follow(source: Source, top: str, position: int, declared: dict[str, int]) -> dict[str, StorageRef]:
    """The storages of *declared* (bytes by key): those whose headers are there, and the others at the file's end."""
    storages = {key: StorageRef(key, source.size, nbytes) for key, nbytes in declared.items()}
    while True:
        gap = source.read_at(position, 24 + len(LOCAL_MAGIC))
        found = gap.find(LOCAL_MAGIC)
        member = _local(source, position + found) if found in (16, 24) else None
        if member is None:
            return storages
        part = member[0].removeprefix(top)
        key = part.removeprefix("data/")
        if part in SMALL:
            size = source.read_at(member[1], 256).find(DESCRIPTOR_MAGIC)
            if size < 0:
                return storages
        elif key != part and key in declared:
            size = declared[key]
            storages[key] = StorageRef(key, member[1], size)
        else:
            return storages
        position = member[1] + size


def _local(source: Source, position: int) -> tuple[str, int] | None:
    """Name of the stored member whose local header is at *position*, and where its data begins."""
    head = source.read_at(position, LOCAL.size)
    if len(head) < LOCAL.size or not head.startswith(LOCAL_MAGIC):
        return None
    _, _, _, method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack(head)
    name = source.read_at(position + LOCAL.size, name_length)
    if method != 0 or len(name) < name_length:
        return None
    return name.decode("utf-8", "backslashreplace"), position + LOCAL.size + name_length + extra_length
