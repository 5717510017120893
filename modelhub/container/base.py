"""What an opened model file is: one frozen value, whatever its format.

Every format's reader is a function from a :class:`~modelhub.source.Source` to a :class:`Container`. Readers do not
raise for hostile or broken content: they state it as anomalies and skipped parts, and leave ``state_dict`` at ``None``
where the tensors cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from modelhub.anomalies import Anomaly
from modelhub.pickles import Trace
from modelhub.source import Source
from modelhub.tensors import StateDict


@dataclass(frozen=True, slots=True)
class PickleProgram:
    """One pickle that loading the file would run, and what it would do.

    ``member`` is the archive member or the part of a stream it lies in (``None``: the file itself). ``role`` says
    what the loader expects of it: ``object`` is the program that makes the tensors' dict, ``magic``, ``protocol``,
    ``system`` and ``storage-keys`` are the framing of the legacy format, ``other`` anything else. The trace's offsets
    are those of *source*, what was traced (``None``: the container's own; unpacked bytes have one of their own);
    *origin* is where in it the member begins, so that ``offset - origin`` lies in the member.
    """

    trace: Trace
    member: str | None = None
    role: str = "object"
    origin: int = 0
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Bytes that were not examined, and why; *member* is ``None`` for the file as a whole."""

    reason: str
    member: str | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """An opened model file, or a diffusers folder, known by its content and not by its name.

    ``kind`` is one of the words of :mod:`modelhub.container.sniff`; ``name`` the path as it was given; ``source``
    where its bytes come from (``None`` for a folder); ``pickles`` every pickle program that a loader would run, in
    the order it would; ``anomalies`` what is odd about the container itself, its tensors' geometry included (what is
    odd about a pickle stands in its trace); ``skipped`` what was not examined; ``state_dict`` its tensors by name,
    ``None`` where they cannot be told; ``parts`` the files of a folder by relative path, ``configs`` the parsed JSON
    objects of a folder by relative path, ``config_sources`` where those of a folder behind a network were read.
    """

    kind: str
    name: str
    source: Source | None
    state_dict: StateDict | None = None
    pickles: tuple[PickleProgram, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    parts: Mapping[str, Container] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    config_sources: tuple[Source, ...] = ()

    def sources(self) -> Iterator[Source]:
        """Everything that was opened to read it."""
        yield from (part.source for _, part in self.files() if part.source is not None)
        yield from self.config_sources

    def files(self) -> Iterator[tuple[str | None, Container]]:
        """This file, or every file of this folder with its relative path."""
        if self.source is not None:
            yield None, self
        yield from self.parts.items()
