"""PyTorch's format before 1.6.

A legacy file is five pickles (a magic number, the protocol 1001, facts about the system, the object, a sorted list of
storage keys) and then, for each key, the number of elements as int64 and the elements, back to back, without a
checksum (torch 2.13, ``_legacy_save`` and ``_legacy_load``). Numbers and elements are little-endian whatever machine
wrote them: ``THPStorage_writeFileRaw`` converts, and the ``little_endian`` of the third pickle is not read by torch.

Behind a network the numbers of elements, a request each, are not read: torch refuses a storage whose number is not the
pickle's, and whether all of them together fill the file is told by its length (``legacy.counts-inferred``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting
from modelhub.container.programs import SMALL, hand_over
from modelhub.container.sniff import LEGACY_MAGICS
from modelhub.pickles import (
    Dict,
    Limits,
    StorageDeclaration,
    Surroundings,
    Trace,
    Value,
    read_state_dict,
    storage_declarations,
    trace_pickle,
)
from modelhub.source import Source, at_hand
from modelhub.tensors import StorageRef

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

ROLES = ("magic", "protocol", "system", "object", "storage-keys")


def read_torch_legacy(source: Source, nesting: Nesting) -> Container:
    """Open a legacy checkpoint: trace its five pickles, then find every storage by its place in the file."""
    programs: list[PickleProgram] = []
    position = 0
    for role in ROLES:
        trace = trace_pickle(source, position, None, Limits() if role == "object" else SMALL)
        programs.append(PickleProgram(trace, None, role, source=source))
        if not trace.stopped:
            break
        position = trace.end
    traces = {program.role: program.trace for program in programs}
    anomalies = _check_framing(source, traces)
    skipped: list[Skipped] = []
    state_dict = None
    last = programs[-1]
    if not last.trace.stopped:
        skipped.append(Skipped(f"the {last.role} pickle is broken, so what follows it cannot be told"))
        if any(odd.rule == "pickle.truncated" for odd in last.trace.anomalies):
            message = f"the file ends inside its {last.role} pickle"
            anomalies.append(Anomaly("legacy.truncated", message, offset=source.size))
    main = traces.get("object")
    if main is not None and main.stopped:
        declared = {each.key: each for each in storage_declarations(main)}
        keys = _literal_keys(traces["storage-keys"].result) if last.trace.stopped else None
        if keys is None:  # then no storage can be found, but the tensors still have their names and shapes
            layout = _Layout({k: StorageRef(k, source.size, d.nbytes) for k, d in declared.items()}, position)
        else:
            layout = _lay_out(source, position, keys, declared)
        reading = read_state_dict(main, Surroundings(layout.storages))
        state_dict = reading.state_dict
        anomalies += (*layout.anomalies, *reading.anomalies)
        if layout.end is None or keys is None or layout.end < source.size:
            skipped.append(Skipped("the bytes after the last storage that could be found are of no known form"))
    inner = hand_over(source, programs, nesting)
    return Container(
        "torch-legacy",
        source.name,
        source,
        state_dict,
        (*programs, *inner.programs),
        (*anomalies, *inner.anomalies),
        (*skipped, *inner.skipped),
    )


def _check_framing(source: Source, traces: Mapping[str, Trace]) -> list[Anomaly]:
    """Whether the four pickles around the object say what torch writes there, and nothing else."""
    odd: list[Anomaly] = []

    def note(rule: str, message: str, trace: Trace) -> None:
        odd.append(Anomaly(rule, message, offset=trace.start))

    if not source.read_at(0, max(map(len, LEGACY_MAGICS))).startswith(LEGACY_MAGICS):
        note("legacy.magic", "the magic number is not written as torch writes it", traces["magic"])
    protocol = traces.get("protocol")
    if protocol is not None and protocol.stopped and not _is_number(protocol.result, PROTOCOL):
        note("legacy.protocol", f"the second pickle is not the protocol number {PROTOCOL}", protocol)
    system = traces.get("system")
    if system is not None and system.stopped:
        facts = _system_facts(system.result)
        if facts is None:
            note("legacy.system", "the third pickle is not a plain dict of numbers about the system", system)
        elif facts.get("little_endian") is False:
            note(
                "legacy.byteorder",
                "written on a big-endian machine; torch stores it little-endian all the same",
                system,
            )
    keys = traces.get("storage-keys")
    if keys is not None and (not keys.stopped or _literal_keys(keys.result) is None):
        note("legacy.storage-keys", "the fifth pickle is not a list of distinct keys, so no storage can be found", keys)
    return odd


def _is_number(value: Value, number: int) -> bool:
    return type(value) is int and value == number


def _system_facts(value: Value) -> dict[str, Value] | None:
    """The third pickle as a dict; ``None`` unless its keys are text and its values numbers, truths, or such dicts."""
    facts: dict[str, Value] = {}
    if type(value) is not Dict:
        return None
    for key, fact in value.pairs:
        nested = fact.pairs if type(fact) is Dict else [("", fact)]
        if type(key) is not str or any(type(k) is not str or type(v) not in (int, bool) for k, v in nested):
            return None
        facts[key] = fact
    return facts


def _literal_keys(value: Value) -> list[str] | None:
    """The fifth pickle as a list of distinct texts, or ``None``."""
    if type(value) is not list or any(type(key) is not str for key in value) or len(set(value)) != len(value):
        return None
    return value


class _Layout(NamedTuple):
    """Where storages lie, by key, and ``end``, where the last one does; ``None`` when that could not be told."""

    storages: dict[str, StorageRef]
    end: int | None
    anomalies: tuple[Anomaly, ...] = ()


def _lay_out(source: Source, start: int, keys: list[str], declared: Mapping[str, StorageDeclaration]) -> _Layout:
    """Where each storage of *keys* lies from *start* on, by the sizes *declared* in the object's pickle.

    Storages that a cut-off file does not hold any more are laid out all the same: their tensors have names and shapes.
    """
    storages: dict[str, StorageRef] = {}
    listed = set(keys)
    odd = [
        Anomaly("legacy.missing-storage", f"storage {key!r:.40} is used by a tensor but not listed")
        for key in declared
        if key not in listed
    ]
    position = start
    inferred = 0
    for key in keys:
        declaration = declared.get(key)
        if declaration is None:
            message = f"storage {key!r:.40} is listed but used by no tensor, so its size cannot be told"
            return _Layout(storages, None, (*odd, Anomaly("legacy.unreferenced-storage", message, offset=position)))
        near = at_hand(source, position, 8)
        inferred += not near
        head = source.read_at(position, 8) if near else b""
        stated = int.from_bytes(head, "little", signed=True)
        if len(head) == 8 and stated != declaration.numel:
            message = f"storage {key!r:.40} has {stated} elements, the pickle asks for {declaration.numel}"
            return _Layout(storages, None, (*odd, Anomaly("legacy.storage-size", message, offset=position)))
        storages[key] = StorageRef(key, position + 8, declaration.nbytes)
        position += 8 + declaration.nbytes
    if inferred:
        message = f"the numbers of elements before {inferred} storages were not read from a distance"
        odd.append(Anomaly("legacy.counts-inferred", message))
    if position > source.size:
        whole = sum(ref.start + ref.nbytes <= source.size for ref in storages.values())
        message = f"the file is cut off: {position - source.size} bytes of {position} are missing"
        evidence = f"{whole} of {len(storages)} storages are complete"
        odd.append(Anomaly("legacy.truncated", message, offset=source.size, evidence=evidence))
    elif position < source.size:
        message = f"{source.size - position} bytes follow the last storage"
        odd.append(Anomaly("legacy.trailing-bytes", message, offset=position))
    return _Layout(storages, position, tuple(odd))
