"""The verbs over paths: each opens what it is given, asks one room, and closes it again.

A *target* is the path of a file or of a diffusers folder, the address of one (``hf://...``, ``https://...``), a binary
file object (judged from its present position on, as a loader would read it), or a
:class:`~modelhub.container.Container` that is open already. What cannot be had raises a
:class:`~modelhub.errors.SourceError`; hostile content never raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from modelhub.container import Container, open_anywhere, open_container
from modelhub.container.shards import missing_components, shards_of
from modelhub.source import Digest, LocalSource, Traffic, digest_of, is_distant, traffic_of

if TYPE_CHECKING:
    from modelhub.anomalies import Anomaly
    from modelhub.identify.base import Identity
    from modelhub.identify.near import NearMiss
    from modelhub.scan import Policy, ScanReport
    from modelhub.tensors import TensorInfo

DIGEST_LIMIT = 4 << 20
"""Largest file in bytes whose digest :func:`scan` computes unasked: it costs less than starting Python."""

Target = str | os.PathLike[str] | BinaryIO | Container
Progress = Callable[[int], None]


def scan(
    target: Target,
    *,
    policy: Policy | None = None,
    digest: bool | None = None,
    deep: bool = False,
    second_opinion: bool | None = None,
    progress: Progress | None = None,
) -> ScanReport:
    """Judge what loading *target* would do, executing nothing of it.

    *digest* says whether to read all bytes for their SHA-256 (``None``: only of a file up to 4 MiB), *deep* to read
    every member and storage to its end and check their checksums. *second_opinion* says whether fickling, in a child
    process, is asked about the pickles as well (``None``: where it could still make the verdict worse). *progress* is
    told bytes as they are read for the digest and for *deep*. Of what lies behind a network no more is read than is
    needed, unless a digest or *deep* is asked for. Raises :class:`ChangedDuringRead` for a file that
    changed meanwhile.
    """
    from modelhub.scan import scan as scan_container

    with _opened(target, whole=deep or digest is True) as container:
        known = _digest(container, digest, progress)
        examined = _read_through(container, progress) if deep else container
        report = scan_container(examined, policy=policy, digest=known)
        if _wants_opinion(report, examined, second_opinion):
            from modelhub.scan.second_opinion import second_opinion as ask

            report = ask(examined, report, policy=policy)
        for _, part in container.files():
            check = getattr(part.source, "check_unchanged", None)
            if check is not None:
                check()
        traffic = traffic_of(container.sources())
        return report if traffic is None else replace(report, traffic=traffic)


def _digest(container: Container, wanted: bool | None, progress: Progress | None) -> Digest | None:
    if container.source is None or wanted is False:
        return None
    if wanted is None and (container.source.size > DIGEST_LIMIT or is_distant(container.source)):
        return None
    return digest_of(container.source, progress)


def _read_through(container: Container, progress: Progress | None) -> Container:
    """*container* with what reading all of its bytes has brought to light."""
    from modelhub.container.deep import deep_check

    known = {(odd.rule, odd.member) for odd in container.anomalies}
    for path, part in container.parts.items():
        known |= {(odd.rule, f"{path}!{odd.member}" if odd.member else path) for odd in part.anomalies}
    found = [odd for odd in deep_check(container, progress) if (odd.rule, odd.member) not in known]
    return replace(container, anomalies=(*container.anomalies, *found))


def _wants_opinion(report: ScanReport, container: Container, wanted: bool | None) -> bool:
    """Whether to ask fickling: never where there is no pickle, and unasked only where its answer could matter."""
    if wanted is False or not any(part.pickles for _, part in container.files()):
        return False
    return wanted is True or report.verdict.label in ("unknown", "suspicious")


def identify(target: Target) -> Identity:
    """Which model *target* is, from its tensors' names, shapes and a few bytes."""
    from modelhub.identify import identify as identify_container

    with _opened(target) as container:
        return identify_container(container)


class Inspection(NamedTuple):
    """A container and the model in it. Its tensors can be listed; their bytes can no longer be read.

    ``near_misses`` are what it is not, nearest first, where that was asked for.
    """

    container: Container
    identity: Identity
    near_misses: tuple[NearMiss, ...] = ()

    def tensors(self) -> Iterator[tuple[str | None, TensorInfo]]:
        """Every tensor with the file of a folder that it lies in (``None``: the file itself), in file order."""
        for member, part in self.container.files():
            if part.state_dict is not None:
                for tensor in part.state_dict.values():
                    yield member, tensor

    @property
    def metadata(self) -> Mapping[str, object]:
        """What the file says about itself: header pairs and plain values beside the tensors; a folder's configs."""
        state_dict = self.container.state_dict
        if state_dict is None:
            return self.container.configs
        return {**state_dict.scalars, **state_dict.metadata}

    @property
    def traffic(self) -> Traffic | None:
        """What it took over the network, ``None`` where nothing came over one."""
        return traffic_of(self.container.sources())

    @property
    def problem(self) -> str | None:
        """Why not all of its tensors are there to be had, in words; ``None`` when they are."""
        parts = [part for _, part in self.container.files()]
        odd = [anomaly for part in (self.container, *parts) for anomaly in _oddities(part)]
        skipped = [skip.reason for part in (self.container, *parts) for skip in part.skipped] + self._missing()
        cut_off = [anomaly.message for anomaly in odd if anomaly.rule.endswith(".truncated")]
        if cut_off:
            return cut_off[0]
        if not skipped and all(part.state_dict is not None for part in parts) and any(self.tensors()):
            return None
        reasons = [anomaly.message for anomaly in odd if anomaly.rule not in _OF_NAMES]
        return next(iter(reasons + skipped), "no tensors in it")

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is to be known: that it is named as something else, how many shards a folder consists of."""
        of_names = [
            anomaly.message if member is None else f"{member}: {anomaly.message}"
            for member, part in self.container.files()
            for anomaly in part.anomalies
            if anomaly.rule in _OF_NAMES
        ]
        number, missing = shards_of(self.container)
        return (*of_names, *([f"{number - len(missing)} of {number} shards"] if number else ()))

    def _missing(self) -> list[str]:
        """What the folder says that it consists of and that is not in it."""
        _, shards = shards_of(self.container)
        found = [f"{len(shards)} of its shards are missing, the first of them {shards[0]}"] if shards else []
        if components := missing_components(self.container):
            found.append(f"components that its index lists are missing: {', '.join(components)}")
        return found


_OF_NAMES = ("container.wrong-extension", "container.partial-download")
"""Rules about what a file is called and not about what it holds."""


def _oddities(container: Container) -> Iterator[Anomaly]:
    yield from container.anomalies
    for program in container.pickles:
        yield from program.trace.anomalies


def inspect(target: Target, *, explain: bool = False) -> Inspection:
    """What *target* is: its container, its tensors and which model they make; with *explain* also what it is not."""
    from modelhub.identify import identify_observation, observe

    with _opened(target) as container:
        observation = observe(container)
        identity = identify_observation(observation)
        if not explain:
            return Inspection(container, identity)
        from modelhub.identify.near import near_misses

        return Inspection(container, identity, near_misses(observation, identity))


@contextmanager
def _opened(target: Target, *, whole: bool = False) -> Iterator[Container]:
    if isinstance(target, Container):
        yield target
    elif isinstance(target, (str, os.PathLike)):
        with open_anywhere(os.fspath(target), whole=whole) as container:
            yield container
    else:
        from modelhub.source.file_object import open_file_object

        source = open_file_object(target)
        try:
            yield open_container(source)
        finally:
            if isinstance(source, LocalSource):
                source.close()
