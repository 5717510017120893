"""The story of many files and folders: each is examined, recorded, and what is a safe pickle becomes safetensors.

Originals are never touched. What the catalog already knows is not read again: a file whose name, size, time and inode
are those it was recorded with has been done, and so has a conversion whose output still lies where it was written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from modelhub import __version__
from modelhub.beside import Surroundings
from modelhub.container import Container, open_path
from modelhub.convert import SALVAGED_KEY, ConversionPlan, default_target, execute, holds, inside, plan_conversion
from modelhub.convert.content import content_digest_of
from modelhub.convert.folder_files import NO_FILES, files_of, is_safetensors, open_beside
from modelhub.db import Catalog, Entry
from modelhub.errors import ChangedDuringRead, ModelHubError, SourceError
from modelhub.identify import Identity, stored
from modelhub.intake import Examination, Progress, examine, stat_of
from modelhub.placing import free_or_same, is_inside, library_path, place, place_folder
from modelhub.scan import Policy, ScanReport, Verdict, load_policy
from modelhub.source import Digest, Found, find_sources
from modelhub.source.layouts import title_of
from modelhub.source.resolve import is_model_name
from modelhub.verbs import Inspection

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
    """What became of one file, or of one folder that is a model.

    ``action``: ``converted``, ``salvaged``, ``linked`` or ``copied`` (into the library), ``recorded`` (examined, and
    left where it is), ``refused`` (recorded, but not converted because of its verdict), ``unchanged`` (known, and not
    read again), ``failed``; with ``dry_run`` ``would convert`` and so on. ``target`` is what was made of it.
    ``report`` and ``identity`` are ``None`` for what was not read; ``entry`` is the catalog's record, ``beside`` the
    number of side files that stand beside it.
    """

    path: str
    action: str
    report: ScanReport | None = None
    identity: Identity | None = None
    target: str | None = None
    error: ModelHubError | None = None
    entry: Entry | None = None
    beside: int = 0


def intake(
    paths: Iterable[str],
    catalog: Catalog,
    options: IntakeOptions = IntakeOptions(),
    *,
    policy: Policy | None = None,
    progress: Progress | None = None,
    on_file: OnFile | None = None,
) -> Iterator[IntakeResult]:
    """Take in every file and every folder of one model that *paths* lead to; one result for each, as it is done.

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
        self.surroundings = Surroundings(catalog)

    def take(self, found: Found) -> IntakeResult:
        """Take one file or folder in."""
        try:
            stat = stat_of(found.path)
            entry = self.catalog.unchanged(stat, self.policy.version, __version__)
            if entry is not None:
                made = self._made_before(entry, found.path)
                if made is not None:
                    beside = self._take_down(found.path)
                    return IntakeResult(found.path, "unchanged", target=made or None, entry=entry, beside=beside)
            with open_path(found.path) as container:
                if self.on_file is not None:
                    self.on_file(found.path, stat.size)
                examined = examine(container, policy=self.policy, stat=stat, progress=self.progress)
                result = self._act(found.path, container, examined)
            return result if result.entry is None else self._with_beside(result)
        except ModelHubError as error:
            return IntakeResult(found.path, "failed", error=error)
        except Exception as error:  # a fault of ours must not keep the other files from being taken in
            message = f"{found.path}: modelhub failed on this file, please report it: {type(error).__name__}: {error}"
            return IntakeResult(found.path, "failed", error=ModelHubError(message))

    def _take_down(self, path: str) -> int:
        return 0 if self.options.dry_run else self.surroundings.take_down(path)

    def _with_beside(self, result: IntakeResult) -> IntakeResult:
        """*result*, with what stands beside the model, and beside what was made of it, written down."""
        beside = self.surroundings.take_down(result.path)
        if result.target is not None and result.error is None:
            self.surroundings.take_down(result.target)
        assert result.entry is not None
        entry = self.catalog.show(f"#{result.entry.id}").entry if beside else result.entry
        return replace(result, entry=replace(entry, path=result.entry.path), beside=beside)

    def _made_before(self, entry: Entry, path: str) -> str | None:
        """What was made of a known one and is still there; ``""`` when nothing is to be made, ``None`` when it is."""
        options = self.options
        safe = entry.verdict == "safe"
        if self._is_to_be_converted(entry, path, safe):
            assert entry.digest is not None
            steps = self.catalog.derived_from(Digest(entry.digest), "convert")
            places = [place for step in steps for place in step.paths]
            wanted = [place for place in places if options.library is None or is_inside(place, options.library)]
        elif safe and options.library is not None and entry.container in _PLACED:
            lying = self.catalog.show(str(entry.id)).locations
            wanted = [place.path for place in lying if place.ended is None and is_inside(place.path, options.library)]
        else:
            return ""
        return next((place for place in wanted if os.path.lexists(place)), None)

    def _is_to_be_converted(self, entry: Entry, path: str, safe: bool) -> bool:
        """Whether a known file or folder is one to convert; a folder's headers are read where names do not tell."""
        if entry.container == "safetensors" or not (self.options.convert and (safe or self.options.salvage)):
            return False
        if entry.container in _FOLDERS:
            if all(name.endswith(".safetensors") or not is_model_name(name) for name in files_of(path)):
                return False
            with open_path(path) as container:
                return not is_safetensors(container)
        said = self.catalog.show(f"#{entry.id}").identification
        return entry.digest is not None and said is not None and bool(said.tensor_count)

    def _act(self, path: str, container: Container, examined: Examination) -> IntakeResult:
        """Record what was examined and make of it what is to be made."""
        entry = None if self.options.dry_run else self._record(examined)
        result = partial(IntakeResult, path, report=examined.report, identity=examined.identity, entry=entry)
        safe = examined.report.verdict is Verdict.SAFE
        try:
            if _is_safetensors(container):
                if not safe or self.options.library is None or container.kind not in _PLACED:
                    return result(self._would("recorded"))
                return self._place(path, examined, result)
            if not self.options.convert or not examined.tensor_count:
                return result(self._would("recorded"))
            if not safe and not self.options.salvage:
                return result(self._would("refused"))
            target = self._convert(container, examined)
        except ModelHubError as error:  # what was examined is recorded, whatever became of it
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
            problem=Inspection(examined.container, examined.identity).problem,
            observation=stored(examined.observation) if examined.observation is not None else None,
        )

    def _place(self, path: str, examined: Examination, result: Callable[..., IntakeResult]) -> IntakeResult:
        """Put a safetensors download into the library, as hard links where the file system can."""
        assert self.options.library is not None
        if is_inside(path, self.options.library):
            return result(self._would("recorded"))
        target = self._library_path(examined)
        if self.options.dry_run:
            return result(self._would("linked"), target=target)
        if examined.is_folder:
            files = {*files_of(path), *examined.container.parts, *examined.container.configs}
            target, action = place_folder(path, target, examined.digest, files, progress=self.progress)
            if stat_of(path) != examined.stat:
                raise ChangedDuringRead(f"{path}: it changed while it was taken in")
        else:
            target, action = place(path, target, examined.digest, progress=self.progress)
        self.surroundings.copy(path, target, converted=False)
        placed = Examination(examined.container, stat_of(target), examined.digest, examined.report, examined.identity)
        self._record(placed)
        self._record(examined)
        return result(action, target=target)

    def _convert(self, container: Container, examined: Examination) -> str:
        """Convert, verify and record pickles; returns the path of what they became, a file or a folder."""
        safe = examined.report.verdict is Verdict.SAFE
        with ExitStack() as stack:
            plan = plan_conversion(
                container,
                examined.identity,
                metadata=None if safe else {SALVAGED_KEY: "true"},
                beside=open_beside(container, stack) if container.source is None else NO_FILES,
            )
            target = default_target(container.name, folder=plan.is_folder)
            if self.options.library is not None:
                place = self._library_path(examined)
                target = os.path.splitext(place)[0] if plan.is_folder and not examined.is_folder else place
            target = free_or_same(
                target, examined.digest, lambda candidate: holds(candidate, plan), folder=plan.is_folder
            )
            if self.options.dry_run:
                return target
            contents: dict[str, Digest | None] = {}
            if not os.path.lexists(target):
                if self.on_file is not None:
                    self.on_file(target, plan.size)
                in_library = self.options.library is not None
                done = execute(plan, target, make_parents=in_library, tensor_digests=True, progress=self.progress)
                contents = {each.path: each.content for each in done.digests}
                self.surroundings.forget(target)
                if in_library:
                    self.surroundings.copy(container.name, target, converted=True)
            for path in [""] if examined.is_folder else [output.path for output in plan.outputs]:
                with open_path(inside(target, path)) as written:
                    made = examine(written, policy=self.policy)
                    content = contents.get(path) or (None if made.is_folder else content_digest_of(written))
                self._record(made)
                self._derive(examined, made, plan, content)
        return target

    def _derive(self, examined: Examination, made: Examination, plan: ConversionPlan, content: Digest | None) -> None:
        """Write down that *made* was made of what was *examined*, as *plan* says."""
        self.catalog.derive(
            "convert",
            output=made.digest,
            inputs=[(examined.digest, "source")],
            params={
                "source_verdict": examined.report.verdict.label,
                "salvaged": examined.report.verdict is not Verdict.SAFE,
                **({"content_sha256": content.sha256} if content is not None else {}),
                "left_out": len(plan.leftovers),
                "shared": len(plan.duplicated),
            },
            version=__version__,
        )

    def _library_path(self, examined: Examination) -> str:
        """Where the library has it, as safetensors: ``<library>/<kind>/<architecture>/<name>``"""
        assert self.options.library is not None
        name = os.path.abspath(examined.container.name)
        title = title_of(name) if examined.is_folder else os.path.basename(default_target(name))
        return library_path(self.options.library, examined.identity.kind, examined.identity.architecture, title)


_FOLDERS = frozenset({"diffusers-folder", "model-folder"})
_PLACED = _FOLDERS | {"safetensors"}
"""Kinds of container that may need no conversion."""


def _is_safetensors(container: Container) -> bool:
    """Whether *container* needs no conversion."""
    return container.kind == "safetensors" if container.source is not None else is_safetensors(container)
