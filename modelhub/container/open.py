"""The door: from a source, or a path, to its container, by content."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, PickleProgram, Skipped
from modelhub.container.programs import acts
from modelhub.container.safetensors import read_safetensors
from modelhub.container.sniff import HEAD, KINDS, PICKLE_FIRST, expected_kinds, sniff
from modelhub.container.torch_legacy import read_pickle, read_torch_legacy
from modelhub.container.torch_zip import read_zip
from modelhub.container.zip_walk import walk_zip
from modelhub.pickles import Limits, trace_pickle
from modelhub.source import Source, open_local

_MAX_ALIKE = 20
_GLANCE = Limits(program=1 << 20)


def open_container(source: Source) -> Container:
    """What *source* is, and what its tensors and pickles are.

    Never raises for what the bytes say, only :class:`~modelhub.errors.SourceError` when they cannot be had. A kind of
    file that is not examined gives a container with an anomaly that says so, and a skipped part.
    """
    head = source.read_at(0, HEAD)
    kind = sniff(head, source.size)
    if kind in _READERS:
        container = _READERS[kind](source)
    elif kind in ("text", "unknown") and _is_bare_pickle(source, head):
        container = read_pickle(source)
    else:
        container = _not_examined(source, kind, head)
    if container.kind not in _RUN_AS_PICKLES:
        container = _with_hidden_pickle(container, source, head)
    odd = _wrong_extension(container)
    anomalies = container.anomalies if odd is None else (odd, *container.anomalies)
    return replace(container, anomalies=_at_most(_MAX_ALIKE, anomalies), skipped=_first(container.skipped))


@contextmanager
def open_path(path: str | os.PathLike[str]) -> Iterator[Container]:
    """Open the file, or the diffusers folder, at *path*, and close everything that was opened at the end.

    Raises :class:`~modelhub.errors.SourceError` when it cannot be had.
    """
    name = os.fspath(path)
    with ExitStack() as stack:
        if os.path.isdir(name):
            from modelhub.container.folder import read_folder

            yield read_folder(name, stack)
        else:
            yield open_container(stack.enter_context(open_local(name)))


def _read_any_zip(source: Source) -> Container:
    archive = walk_zip(source)
    if archive is not None:
        return read_zip(source, archive)
    from modelhub.container.cut_zip import read_cut_zip

    return read_cut_zip(source)


def _read_any_tar(source: Source) -> Container:
    from modelhub.container.torch_tar import read_tar

    return read_tar(source)


_READERS: Mapping[str, Callable[[Source], Container]] = {
    "safetensors": read_safetensors,
    "zip": _read_any_zip,
    "tar": _read_any_tar,
    "torch-legacy": read_torch_legacy,
    "pickle": read_pickle,
}
_OWN_RULES = {
    "html": "container.html-page",
    "git-lfs-pointer": "container.lfs-pointer",
    "empty": "container.empty",
    "unknown": "container.unknown",
}
_RUN_AS_PICKLES = frozenset({"pickle", "torch-legacy", "torch-zip", "torchscript", "torch-tar", "zip", "tar"})


def _is_bare_pickle(source: Source, head: bytes) -> bool:
    """Whether bytes of no other kind run as a pickle: those of protocols 0 and 1 begin like a text."""
    return head[0] in PICKLE_FIRST and acts(trace_pickle(source, limits=_GLANCE))


def _with_hidden_pickle(container: Container, source: Source, head: bytes) -> Container:
    """*container* and the pickle that its bytes are at the same time, should they be one that does anything."""
    if not head or head[0] not in PICKLE_FIRST:
        return container
    trace = trace_pickle(source, limits=_GLANCE)
    if not acts(trace) or not (trace.imports or trace.calls):
        return container
    odd = Anomaly("container.polyglot", f"{KINDS[container.kind]} that would also run as a pickle", offset=0)
    programs = (*container.pickles, PickleProgram(trace, None, "other"))
    return replace(container, pickles=programs, anomalies=(odd, *container.anomalies))


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


def _wrong_extension(container: Container) -> Anomaly | None:
    """The name's extension promises another kind of file; says nothing where it is no model at all."""
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
