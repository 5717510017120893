"""The door: from a source to its container, by content."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable
from dataclasses import replace

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.nesting import Nesting, Opener
from modelhub.container.programs import acts, hand_over
from modelhub.container.sniff import COMPRESSED, HEAD, KINDS, PARTIAL, PICKLE_FIRST, expected_kinds, sniff
from modelhub.pickles import Limits, Trace, trace_pickle
from modelhub.source import Source

_MAX_ALIKE = 20
_END_RECORD = 22  # bytes, without the comment that may follow
_GLANCE = Limits(program=1 << 20)


def open_container(source: Source) -> Container:
    """What *source* is, and what its tensors and pickles are.

    Never raises for what the bytes say, only :class:`~modelhub.errors.SourceError` when they cannot be had. A kind of
    file that is not examined gives a container with an anomaly that says so, and a skipped part.
    """
    return _open(source, Nesting(_open))


def _open(source: Source, nesting: Nesting) -> Container:
    """:func:`open_container` of a file that lies in others as *nesting* says."""
    head = source.read_at(0, HEAD)
    kind = sniff(head, source.size)
    reader = _reader_of(kind)
    if reader is None and kind in ("text", "unknown") and _is_bare_pickle(source, head, nesting):
        reader = _reader_of("pickle")
    container = reader(source, nesting) if reader is not None else _not_examined(source, kind, head)
    if container.kind not in _RUN_AS_PICKLES and kind not in ("text", "unknown"):
        container = _with_hidden_pickle(container, source, head, nesting)
    if kind not in ("zip", "empty") and _ends_as_zip(source):
        container = _with_hidden_zip(container, source, nesting)
    odd = _odd_name(container)
    anomalies = container.anomalies if odd is None else (odd, *container.anomalies)
    return replace(container, anomalies=_at_most(_MAX_ALIKE, anomalies), skipped=_first(container.skipped))


def _reader_of(kind: str) -> Opener | None:
    """The reader of a *kind* of file, imported now that there is one to read; ``None`` where there is none."""
    match kind:
        case "zip":
            from modelhub.container.any_zip import read_any_zip

            return read_any_zip
        case "torch-legacy":
            from modelhub.container.torch_legacy import read_torch_legacy

            return read_torch_legacy
        case "pickle":
            from modelhub.container.bare_pickle import read_pickle

            return read_pickle
        case "safetensors":
            from modelhub.container.safetensors import read_safetensors

            return lambda source, _: read_safetensors(source)
        case "gguf":
            from modelhub.container.gguf import read_gguf

            return lambda source, _: read_gguf(source)
        case "numpy":
            from modelhub.container.numpy import read_numpy

            return read_numpy
        case "tar":
            from modelhub.container.torch_tar import read_tar

            return read_tar
        case "onnx":
            from modelhub.container.onnx import read_onnx

            return lambda source, _: read_onnx(source)
        case "hdf5":
            from modelhub.container.keras import read_hdf5

            return lambda source, _: read_hdf5(source)
        case "7z":
            from modelhub.container.sevenzip import read_7z

            return read_7z
        case _ if kind in COMPRESSED:
            from modelhub.container.compressed import read_compressed

            return lambda source, nesting: read_compressed(source, kind, nesting)
        case _:
            return None


_OWN_RULES = {
    "html": "container.html-page",
    "git-lfs-pointer": "container.lfs-pointer",
    "empty": "container.empty",
    "unknown": "container.unknown",
}
_RUN_AS_PICKLES = frozenset({"pickle", "torch-legacy", "torch-zip", "torchscript", "zip"})
"""Kinds whose bytes are traced from the start already, or begin with an opcode that no plain unpickler passes."""


def _glance(source: Source, nesting: Nesting) -> Trace:
    """What *source* would do as a pickle, not followed far."""
    trace = trace_pickle(source, limits=_GLANCE)
    if nesting.depth:
        nesting.charge(trace)
    return trace


def _is_bare_pickle(source: Source, head: bytes, nesting: Nesting) -> bool:
    """Whether bytes of no other kind run as a pickle: those of protocols 0 and 1 begin like a text."""
    return head[0] in PICKLE_FIRST and acts(_glance(source, nesting))


def _with_hidden_pickle(container: Container, source: Source, head: bytes, nesting: Nesting) -> Container:
    """*container* and the pickle that its bytes are at the same time, should they be one that does anything."""
    if not head or head[0] not in PICKLE_FIRST:
        return container
    trace = _glance(source, nesting)
    if not acts(trace) or not (trace.imports or trace.calls):
        return container
    odd = Anomaly("container.polyglot", f"{KINDS[container.kind]} that would also run as a pickle", offset=0)
    hidden = PickleProgram(trace, None, "other", source=source)
    inner = hand_over(source, [hidden], nesting)
    return replace(
        container,
        pickles=(*container.pickles, hidden, *inner.programs),
        anomalies=(odd, *container.anomalies, *inner.anomalies),
        skipped=(*container.skipped, *inner.skipped),
    )


def _ends_as_zip(source: Source) -> bool:
    """Whether the file ends with a zip archive's end record, by which an archive is found behind other bytes."""
    length = min(source.size, _END_RECORD + 0xFFFF)
    tail = source.read_at(source.size - length, length)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END_RECORD:
        return False
    return int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail) - at - _END_RECORD


def _with_hidden_zip(container: Container, source: Source, nesting: Nesting) -> Container:
    """*container* and the zip archive that its bytes are at the same time."""
    from modelhub.container.any_zip import read_any_zip

    hidden = read_any_zip(source, nesting)
    message = f"{KINDS[container.kind]} that can also be read as a zip archive"
    return replace(
        container,
        pickles=(*container.pickles, *(replace(each, role="other") for each in hidden.pickles)),
        anomalies=(Anomaly("container.polyglot", message), *container.anomalies, *hidden.anomalies),
        skipped=(*container.skipped, *hidden.skipped),
    )


def _not_examined(source: Source, kind: str, head: bytes) -> Container:
    """The container of a kind of file that has no reader."""
    what = KINDS[kind]
    rule, message = _OWN_RULES.get(kind, "container.not-examined"), f"{what}, which is not examined"
    evidence = None
    if kind == "html":
        message = f"{what}, not a model: the download failed"
        title = re.search(rb"<title[^>]*>([^<]{1,200})", head, re.IGNORECASE)
        evidence = title[1].decode("utf-8", "replace").strip() if title else None
    elif kind == "git-lfs-pointer":
        message = f"{what}, not the model itself: fetch that with 'git lfs pull'"
        evidence = " ".join(head[:300].decode("utf-8", "replace").split()[2:])
    elif kind == "empty":
        message = "the file is empty"
    elif kind == "unknown":
        message = "the file is of no kind that is known here"
        evidence = head[:16].hex(" ")
    odd = Anomaly(rule, message, evidence=evidence)
    skipped = () if kind in ("empty", "git-lfs-pointer") else (Skipped(f"{what} is not examined"),)
    return Container(kind, source.name, source, anomalies=(odd,), skipped=skipped)


def _odd_name(container: Container) -> Anomaly | None:
    """The name is an unfinished download's, or promises another kind of file, where that is a model at all."""
    if container.name.lower().endswith(PARTIAL):
        message = f"named {os.path.splitext(container.name)[1]}, as a download is that has not ended"
        return Anomaly("container.partial-download", message)
    expected = expected_kinds(container.name)
    if (
        expected is None
        or container.kind in expected
        or container.kind in ("html", "git-lfs-pointer", "empty", "unknown")
    ):
        return None
    extension = os.path.splitext(container.name)[1]
    return Anomaly("container.wrong-extension", f"named {extension}, but it is {KINDS[container.kind]}")


def _at_most(count: int, anomalies: Iterable[Anomaly]) -> tuple[Anomaly, ...]:
    """*anomalies* with no more than *count* of each rule, and how many more there were."""
    kept: list[Anomaly] = []
    seen: dict[str, int] = {}
    for odd in anomalies:
        seen[odd.rule] = seen.get(odd.rule, 0) + 1
        if seen[odd.rule] <= count:
            kept.append(odd)
    more = [Anomaly(rule, f"and {n - count} more of the same") for rule, n in seen.items() if n > count]
    return (*kept, *more)


def _first(skipped: tuple[Skipped, ...]) -> tuple[Skipped, ...]:
    """*skipped*, cut down to a length that people read."""
    if len(skipped) <= 2 * _MAX_ALIKE:
        return skipped
    return (*skipped[: 2 * _MAX_ALIKE], Skipped(f"and {len(skipped) - 2 * _MAX_ALIKE} more members"))
