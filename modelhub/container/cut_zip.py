"""Zip archives that are cut off: without their directory, but a torch checkpoint's layout tells what is missing.

torch writes ``data.pkl`` first, so that the tensors' names and shapes survive in any download that got past it. It
also says how large each storage is, and with that where every member lies and how long the whole file is.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting
from modelhub.container.programs import hand_over
from modelhub.container.torch_layout import checkpoint_layout
from modelhub.container.torch_zip import below_top
from modelhub.container.zip_walk import DESCRIPTOR_MAGIC, LOCAL, LOCAL_MAGIC
from modelhub.pickles import Surroundings, Trace, read_state_dict, storage_declarations, trace_pickle
from modelhub.source import Source
from modelhub.tensors import StorageRef

_BETWEEN = frozenset({"byteorder", ".format_version", ".storage_alignment"})
"""Members between the pickle and the storages; each has a few bytes."""


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
    top = name.removesuffix("data.pkl")
    storages, size = _placed(source, top, trace, declared)
    if size is None:
        missing = sum(max(0, ref.end - source.size) for ref in storages.values())
        message = f"the file is cut off: at least {missing} bytes are missing"
    else:
        message = f"the file is cut off: {size - source.size} bytes of {size} are missing"
    whole = sum(ref.end <= source.size for ref in storages.values())
    evidence = f"{whole} of {len(storages)} storages are complete"
    odd = Anomaly("zip.truncated", message, offset=source.size, evidence=evidence)
    reading = read_state_dict(trace, Surroundings(storages))
    anomalies = (odd, *reading.anomalies, *inner.anomalies)
    return Container("torch-zip", source.name, source, reading.state_dict, programs, anomalies, skipped)


def _placed(
    source: Source, top: str, trace: Trace, declared: Mapping[str, int]
) -> tuple[dict[str, StorageRef], int | None]:
    """The storages of *declared* (bytes by key), and the size of the whole file.

    The size is ``None`` where the members that are there are not where torch puts them, or too few to tell. Storages
    that were not found lie at the file's end then.
    """
    between, alignment, told = _between(source, top, trace.end)
    layout = checkpoint_layout(top, trace.end - trace.start, between, declared, alignment)
    keys = {f"{top}data/{key}": key for key in declared}
    found = {key: StorageRef(key, source.size, nbytes) for key, nbytes in declared.items()}
    for member in layout.members:
        here = _local(source, member.header)
        if here is None and member.start > source.size and told:
            here = member.name, member.start  # not there any more, but there is no doubt where it was
        if here != (member.name, member.start):
            return found, None
        if member.name in keys:
            found[keys[member.name]] = StorageRef(keys[member.name], member.start, member.end - member.start)
    return found, layout.size if layout.size > source.size else None


def _between(source: Source, top: str, position: int) -> tuple[list[tuple[str, int]], int, bool]:
    """The small members after the pickle, which ends at *position*, with their sizes; the alignment of all members; and
    whether the first member after these is there, so that they are known to be all."""
    found: list[tuple[str, int]] = []
    alignment = 64
    while True:
        gap = source.read_at(position, 24 + len(LOCAL_MAGIC)).find(LOCAL_MAGIC)
        member = _local(source, position + gap) if gap in (16, 24) else None
        if member is None:
            return found, alignment, False
        part = member[0].removeprefix(top)
        if part not in _BETWEEN:
            return found, alignment, True
        content, descriptor, _ = source.read_at(member[1], 256).partition(DESCRIPTOR_MAGIC)
        if not descriptor:
            return found, alignment, False
        if part == ".storage_alignment" and content.isdigit() and len(content) < 8:
            alignment = max(1, int(content))
        found.append((part, len(content)))
        position = member[1] + len(content)


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
