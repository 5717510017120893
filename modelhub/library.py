"""The story of many files: each is examined, recorded, and what is a safe pickle becomes safetensors.

Originals are never touched. What the catalog already knows is not read again: a file whose name, size, time and inode
are those it was recorded with has been done, and so has a conversion whose output still lies where it was written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from modelhub import __version__
from modelhub.container import Container, open_path
from modelhub.convert import SALVAGED_KEY, ConversionPlan, default_target, execute, holds, inside, plan_conversion
from modelhub.convert.content import content_digest_of
from modelhub.db import Catalog, Entry
from modelhub.errors import ConversionError, FormatError, ModelHubError, SourceError, WouldOverwrite
from modelhub.identify import Identity, stored
from modelhub.intake import Examination, Progress, examine, stat_of
from modelhub.placing import place
from modelhub.scan import Policy, ScanReport, Verdict, load_policy
from modelhub.source import Digest, Found, find_sources

OnFile = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class IntakeOptions:
    """What intake does with what it finds.

    ``library``: the folder that models are put into (``None``: converted files lie beside their originals, nothing is
    copied); ``convert``: whether safe pickles are converted; ``salvage``: whether the tensors of others are copied
    too; ``dry_run``: say what would be done, and write nothing.
    """

    library: str | None = None
    convert: bool = True
    salvage: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What became of one file.

    ``action``: ``converted``, ``salvaged``, ``linked`` or ``copied`` (into the library), ``recorded`` (examined, and
    left where it is), ``refused`` (recorded, but not converted because of its verdict), ``unchanged`` (known, and not
    read again), ``failed``; with ``dry_run`` ``would convert`` and so on. ``target`` is the file made of it.
    ``report`` and ``identity`` are ``None`` for what was not read; ``entry`` is the catalog's record.
    """

    path: str
    action: str
    report: ScanReport | None = None
    identity: Identity | None = None
    target: str | None = None
    error: ModelHubError | None = None
    entry: Entry | None = None


def intake(
    paths: Iterable[str],
    catalog: Catalog,
    options: IntakeOptions = IntakeOptions(),
    *,
    policy: Policy | None = None,
    progress: Progress | None = None,
    on_file: OnFile | None = None,
) -> Iterator[IntakeResult]:
    """Take in every file and diffusers folder that *paths* lead to; one result for each, as it is done.

    *on_file* is told each file's path and how many bytes are about to be read and written for it, *progress* those
    bytes as they are. A file that fails gives a result with its error, and the rest goes on.
    """
    run = _Intake(catalog, options, policy or load_policy(), progress, on_file)
    for found in find_sources(paths):
        if isinstance(found, SourceError):
            yield IntakeResult(found.path or "", "failed", error=found)
        else:
            yield run.take(found)


class _Intake:
    """One run of :func:`intake`: what is the same for all its files."""

    def __init__(
        self,
        catalog: Catalog,
        options: IntakeOptions,
        policy: Policy,
        progress: Progress | None,
        on_file: OnFile | None,
    ) -> None:
        self.catalog = catalog
        self.options = options
        self.policy = policy
        self.progress = progress
        self.on_file = on_file

    def take(self, found: Found) -> IntakeResult:
        """Take one file or folder in."""
        try:
            stat = stat_of(found.path)
            entry = self.catalog.unchanged(stat, self.policy.version, __version__)
            if entry is not None:
                made = self._made_before(entry)
                if made is not None:
                    return IntakeResult(found.path, "unchanged", target=made or None, entry=entry)
            with open_path(found.path) as container:
                if self.on_file is not None:
                    self.on_file(found.path, stat.size)
                examined = examine(container, policy=self.policy, stat=stat, progress=self.progress)
                return self._act(found.path, container, examined)
        except ModelHubError as error:
            return IntakeResult(found.path, "failed", error=error)
        except Exception as error:  # a fault of ours must not keep the other files from being taken in
            message = f"{found.path}: modelhub failed on this file, please report it: {type(error).__name__}: {error}"
            return IntakeResult(found.path, "failed", error=ModelHubError(message))

    def _made_before(self, entry: Entry) -> str | None:
        """The file made of a known one that is still there; ``""`` when none is to be made, ``None`` when one is."""
        options = self.options
        safe = entry.verdict == "safe"
        if entry.container == "safetensors" and safe and options.library is not None:
            places = [place.path for place in self.catalog.show(str(entry.id)).locations if place.ended is None]
            inside = [path for path in places if _is_inside(path, options.library)]
        elif entry.container in _AS_THEY_ARE or not options.convert or not (safe or options.salvage):
            return ""
        else:
            said = self.catalog.show(str(entry.id)).identification
            if entry.digest is None or said is None or not said.tensor_count:
                return ""
            steps = self.catalog.derived_from(Digest(entry.digest), "convert")
            places = [path for step in steps for path in step.paths]
            inside = [path for path in places if options.library is None or _is_inside(path, options.library)]
        return next((path for path in inside if os.path.lexists(path)), None)

    def _act(self, path: str, container: Container, examined: Examination) -> IntakeResult:
        """Record what was examined and make of it what is to be made."""
        entry = None if self.options.dry_run else self._record(examined)
        result = partial(IntakeResult, path, report=examined.report, identity=examined.identity, entry=entry)
        safe = examined.report.verdict is Verdict.SAFE
        if container.kind in _AS_THEY_ARE or container.source is None:
            if not safe or self.options.library is None or container.source is None:
                return result(self._would("recorded"))
            return self._place(path, examined, result)
        if not self.options.convert or not container.state_dict:
            return result(self._would("recorded"))
        if not safe and not self.options.salvage:
            return result(self._would("refused"))
        try:
            target = self._convert(container, examined)
        except (ConversionError, FormatError) as error:  # the latter of bytes that do not match their checksum
            return result("failed", error=error)
        return result(self._would("converted" if safe else "salvaged"), target=target)

    def _would(self, action: str) -> str:
        if not self.options.dry_run:
            return action
        return {"converted": "would convert", "salvaged": "would salvage", "linked": "would link"}.get(
            action, "would record" if action == "recorded" else f"would be {action}"
        )

    def _record(self, examined: Examination) -> Entry:
        return self.catalog.record(
            examined.stat,
            examined.digest,
            examined.report,
            examined.identity,
            tensor_count=examined.tensor_count,
            parameter_count=examined.parameter_count,
            metadata=examined.metadata,
            version=__version__,
            is_folder=examined.is_folder,
            observation=stored(examined.observation) if examined.observation is not None else None,
        )

    def _place(self, path: str, examined: Examination, result: Callable[..., IntakeResult]) -> IntakeResult:
        """Put a safetensors download into the library, as a hard link where the file system can."""
        library = self.options.library
        assert library is not None
        if _is_inside(path, library):
            return result(self._would("recorded"))
        identity = examined.identity
        target = self._library_path(identity.kind, identity.architecture, path)
        if self.options.dry_run:
            return result(self._would("linked"), target=target)
        target, action = place(path, target, examined.digest, progress=self.progress)
        placed = Examination(examined.container, stat_of(target), examined.digest, examined.report, identity)
        self._record(placed)
        self._record(examined)
        return result(action, target=target)

    def _convert(self, container: Container, examined: Examination) -> str:
        """Convert, verify and record a pickle; returns the path of what it became, a file or a folder of some."""
        safe = examined.report.verdict is Verdict.SAFE
        plan = plan_conversion(container, examined.identity, metadata=None if safe else {SALVAGED_KEY: "true"})
        target = default_target(container.name, folder=plan.is_folder)
        if self.options.library is not None:
            place = self._library_path(examined.identity.kind, examined.identity.architecture, container.name)
            target = os.path.splitext(place)[0] if plan.is_folder else place
        target = self._free_or_same(plan, target, examined.digest)
        if self.options.dry_run:
            return target
        contents: dict[str, Digest | None] = {}
        if not os.path.lexists(target):
            if self.on_file is not None:
                self.on_file(target, plan.size)
            in_library = self.options.library is not None
            done = execute(plan, target, make_parents=in_library, tensor_digests=True, progress=self.progress)
            contents = {each.path: each.content for each in done.digests}
        for output in plan.outputs:
            with open_path(inside(target, output.path)) as written:
                made = examine(written, policy=self.policy)
                content = contents.get(output.path) or content_digest_of(written)
            self._record(made)
            self.catalog.derive(
                "convert",
                output=made.digest,
                inputs=[(examined.digest, "source")],
                params={
                    "source_verdict": examined.report.verdict.label,
                    "salvaged": not safe,
                    "content_sha256": content.sha256,
                    "left_out": len(plan.leftovers),
                    "shared": len(plan.duplicated),
                },
                version=__version__,
            )
        return target

    def _free_or_same(self, plan: ConversionPlan, target: str, digest: Digest) -> str:
        """*target*, or the same with a piece of the source's digest where another file has that name.

        A file that already holds exactly what the plan would write is not another file: it is kept.
        """
        stem, extension = os.path.splitext(target)
        for candidate in (target, f"{stem}-{digest.sha256[:8]}{extension}"):
            if not os.path.lexists(candidate) or holds(candidate, plan):
                return candidate
        raise WouldOverwrite(f"{target}: exists already, and so does the other name for it", hint="move one away")

    def _library_path(self, kind: str | None, architecture: str | None, path: str) -> str:
        """``<library>/<kind>/<architecture>/<name>.safetensors``"""
        assert self.options.library is not None
        name = os.path.basename(default_target(os.path.abspath(path)))
        folders = (_folder_name(kind), _folder_name(architecture))
        return os.path.join(self.options.library, *folders, name)


_AS_THEY_ARE = frozenset({"safetensors", "diffusers-folder"})
"""Kinds of container that need no conversion."""


def _is_inside(path: str, folder: str) -> bool:
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([inner, outer]) == outer if inner[:1] == outer[:1] else False


def _folder_name(word: str | None) -> str:
    """A word of the identity as a folder's name: ``sd-1``; ``unknown`` where it is not known."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word or "").strip(".-") or "unknown"
