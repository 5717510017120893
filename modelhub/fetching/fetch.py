"""Downloading what was planned: into quarantine first, and out of it only what is whole and safe.

The quarantine is a hidden folder beside the targets, which no walk enters, and a state in the catalog. In it each
revision of a repository, and each address outside the Hub, has a folder of its own.
huggingface_hub downloads into it and goes on there with what was interrupted. What has the length and the SHA-256 that
were claimed is examined there, and recorded. It leaves when a scan of all of it says SAFE; then it gets its name,
whole, and a note of its origin beside it. What lies at a target already is examined as well.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from modelhub.convert import convert
from modelhub.convert.target import rename_to_free_name, write_error
from modelhub.db import Catalog, Entry
from modelhub.errors import (
    ChangedDuringRead,
    ModelHubError,
    NoSpace,
    SourceError,
    UnsafeModelError,
    WouldOverwrite,
)
from modelhub.fetching.origin import check_note, write_note
from modelhub.fetching.plan import FetchPlan, PlannedFile, Unit
from modelhub.fetching.recording import Ledger
from modelhub.intake import Examination, stat_of
from modelhub.scan import Policy, ScanReport, Verdict, load_policy
from modelhub.source import digest_of, open_local, shown_address
from modelhub.source.digest import git_id_of
from modelhub.source.network import reference_of

QUARANTINE = ".modelhub-quarantine"
_MARGIN = 64 << 20
"""Bytes that are left free on the disk."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of one unit.

    ``action``: ``fetched``, ``salvaged`` (its tensors alone), ``already there``, ``refused`` (before it was
    downloaded), ``in quarantine`` (downloaded, and not admitted) or ``failed``. ``target`` is where it, or what was
    made of it, lies; ``reports`` what was said of it last; ``entry`` the catalog's record of it, ``None`` for what was
    not downloaded and without a catalog.
    """

    unit: Unit
    action: str
    target: str | None
    reports: tuple[ScanReport, ...]
    error: ModelHubError | None = None
    entry: Entry | None = None

    @property
    def verdict(self) -> Verdict:
        return max((report.verdict for report in self.reports), default=Verdict.UNKNOWN)


def fetch(
    plan: FetchPlan,
    catalog: Catalog | None = None,
    *,
    salvage: bool = False,
    replace: Callable[[], None] | None = None,
    policy: Policy | None = None,
    quiet: bool = True,
    on_note: Callable[[str], None] = lambda _: None,
) -> Iterator[FetchResult]:
    """Carry *plan* out; a result for each unit, as it is done, whatever becomes of the others.

    What is not SAFE is not downloaded, unless it could only not be judged from a distance, or *salvage* is given: then
    its tensors are copied into a safetensors file, and it is removed. *catalog* is where all that was downloaded is
    written down. With *replace* it takes the place of what lies at its target, which stays until then; *replace* is
    asked just before, and raises where that may not be. *on_note* is told of downloads outside the Hub that are gone
    on with or begun again. Raises :class:`NoSpace`, and :class:`SourceError` for a link in the quarantine, before
    anything is downloaded.
    """
    needed = sum(unit.size for unit in plan.units if unit.may_be_fetched or salvage)
    if needed + _MARGIN > plan.free:
        raise NoSpace(f"{plan.folder}: {needed:,} bytes are to be downloaded, and {plan.free:,} are free")
    _check_no_links(os.path.join(plan.folder, QUARANTINE))
    ledger = Ledger(plan, catalog, policy or load_policy())
    ledger.forget_removed()
    run = _Run(plan, ledger, salvage=salvage, replace=replace, quiet=quiet, on_note=on_note)
    for unit in plan.units:
        try:
            yield run.take(unit)
        except ModelHubError as error:
            yield FetchResult(unit, "failed", None, unit.reports, error)
        except OSError as error:
            yield FetchResult(unit, "failed", None, unit.reports, write_error(error, unit.target))


class _Run:
    """One run of :func:`fetch`."""

    def __init__(
        self,
        plan: FetchPlan,
        ledger: Ledger,
        *,
        salvage: bool,
        replace: Callable[[], None] | None,
        quiet: bool,
        on_note: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._salvage = salvage
        self._replace = replace
        self._ledger = ledger
        self._quiet = quiet
        self._on_note = on_note

    def take(self, unit: Unit) -> FetchResult:
        if _is_there(unit):
            there = self._ledger.examine(unit.target)
            entry = self._ledger.admitted(there, unit, is_it=_is_it(unit))
            return FetchResult(unit, "already there", unit.target, (there.report,), entry=entry)
        salvage = self._salvage and not unit.is_folder
        if not unit.may_be_fetched and not salvage:
            return FetchResult(unit, "refused", None, unit.reports)
        if self._replace is None:
            _check_free(unit.target)
        if not unit.may_be_fetched:
            _check_free(_salvaged(unit))
        check_note(unit.target if unit.may_be_fetched else _salvaged(unit))
        lying = self._download(unit)
        examined = self._ledger.examine(lying)
        report = examined.report
        entry = self._ledger.arrived(examined, unit)
        if report.verdict is Verdict.SAFE:
            self._admit(lying, unit, examined)
            entry = self._ledger.admitted(examined, unit)
            return FetchResult(unit, "fetched", unit.target, (report,), entry=entry)
        if salvage:
            try:
                target = self._take_tensors(lying, unit)
            finally:
                self._ledger.forget_removed()
            entry = self._ledger.salvaged(examined, unit, target)
            return FetchResult(unit, "salvaged", target, (report,), entry=entry)
        refused = UnsafeModelError(f"{lying}: {report.verdict.label}, so it stays in quarantine", report)
        return FetchResult(unit, "in quarantine", lying, (report,), refused, entry)

    def _download(self, unit: Unit) -> str:
        """Bring all files of *unit* into quarantine and compare them with what is claimed; returns where it lies."""
        reference = reference_of(unit.address)
        if reference is not None:
            own = f"{reference.repo.replace('/', '--')}@{reference.revision}"
        else:
            own = hashlib.sha256(shown_address(unit.address).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        place = os.path.join(self._plan.folder, QUARANTINE, own)
        for file in unit.files:
            if reference is not None:
                from modelhub.source import hub

                path = hub.download(reference._replace(path=file.path), file.size, place, quiet=self._quiet)
            else:
                path = self._download_outside(unit, file, place)
            try:
                _compare(path, file)
            except SourceError:
                os.unlink(path)  # else it would be taken for downloaded the next time
                raise
        lying = os.path.join(place, *filter(None, unit.path.split("/")))
        if unit.is_folder:
            _remove_others(lying, {file.path.removeprefix(unit.path) for file in unit.files})
            shutil.rmtree(os.path.join(lying, ".cache"), ignore_errors=True)
        return lying

    def _download_outside(self, unit: Unit, file: PlannedFile, place: str) -> str:
        """Download one of *unit*'s files, which is not on the Hub, to below the folder *place*; returns its path."""
        from modelhub.source.download import download

        path = os.path.join(place, *file.path.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        address = unit.address + file.path.removeprefix(unit.path) if unit.is_folder else unit.address
        download(address, file.size, path, self._on_note)
        return path

    def _admit(self, lying: str, unit: Unit, examined: Examination) -> None:
        """Give what lies in quarantine, and is still what was *examined*, its name, whole or not at all."""
        if stat_of(lying) != examined.stat:
            raise ChangedDuringRead(f"{lying}: it changed after it was scanned", path=lying)
        try:
            os.makedirs(os.path.dirname(os.path.abspath(unit.target)), exist_ok=True)
            if self._replace is not None:
                self._replace()
                _swap(lying, unit.target, os.path.join(self._plan.folder, QUARANTINE))
            elif unit.is_folder:
                os.rename(lying, unit.target)
            else:
                rename_to_free_name(lying, unit.target)
        except OSError as error:
            raise write_error(error, unit.target) from error
        self._tidy()
        write_note(unit.target, unit, self._plan.claims, salvaged=False)

    def _take_tensors(self, lying: str, unit: Unit) -> str:
        """Copy the tensors of what lies in quarantine, and remove it, whatever comes of them; returns the copy."""
        target = _salvaged(unit)
        try:
            check_note(target)
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            convert(lying, target, salvage=True, policy=self._ledger.policy)
        finally:
            os.unlink(lying)
            self._tidy()
        write_note(target, unit, self._plan.claims, salvaged=True)
        return target

    def _tidy(self) -> None:
        """Remove what huggingface_hub noted of files that have left, and folders that are empty."""
        top = os.path.join(self._plan.folder, QUARANTINE)
        for place, _, files in os.walk(top, topdown=False):
            if f"{os.sep}.cache{os.sep}" in place + os.sep:
                for name in files:
                    if not name.endswith(".incomplete"):
                        with suppress(OSError):
                            os.unlink(os.path.join(place, name))
            with suppress(OSError):
                os.rmdir(place)


def _salvaged(unit: Unit) -> str:
    """Where the tensors of *unit*, a file, are put."""
    return os.path.splitext(unit.target)[0] + ".safetensors"


def _check_free(target: str) -> None:
    if os.path.lexists(target):
        raise WouldOverwrite(f"{target}: exists already, and is something else", hint="move it away")


def _swap(lying: str, target: str, quarantine: str) -> None:
    """Let what is *lying* in quarantine take the place of the file or folder *target*, which is removed then."""
    if not os.path.isdir(lying):
        os.replace(lying, target)
        return
    before = os.path.join(quarantine, f"{os.path.basename(target)}.before")
    shutil.rmtree(before, ignore_errors=True)
    os.rename(target, before)
    try:
        os.rename(lying, target)
    except OSError:
        os.rename(before, target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _check_no_links(quarantine: str) -> None:
    """Raise :class:`SourceError` for a link in the *quarantine*, or in its place: it would be written through."""
    found = [quarantine]
    for place, folders, files in os.walk(quarantine):
        found += [os.path.join(place, name) for name in (*folders, *files)]
    for path in filter(os.path.islink, found):
        raise SourceError(f"{path}: a link, through which nothing is downloaded", path=path, hint="remove it")


def _remove_others(folder: str, wanted: set[str]) -> None:
    """Leave only the files *wanted*, by relative path, in the quarantined *folder*, and huggingface_hub's own."""
    for place, _, names in os.walk(folder):
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        if below.split("/")[0] == ".cache":
            continue
        for name in names:
            if (name if below == "." else f"{below}/{name}") not in wanted:
                os.unlink(os.path.join(place, name))


def _is_there(unit: Unit) -> bool:
    """Whether all files of *unit* lie at their target, by their length and, where it is known, their SHA-256."""
    for file in unit.files:
        try:
            _compare(_at_target(unit, file), file)
        except SourceError:
            return False
    return True


def _is_it(unit: Unit) -> bool:
    """Whether what is there by its length is what *unit* names: by its SHA-256, or by git's id of a file on the Hub."""
    on_hub = reference_of(unit.address) is not None
    for file in unit.files:
        if file.sha256 is None:
            if not on_hub:
                return False
            with open_local(_at_target(unit, file)) as source:
                if git_id_of(source) != file.etag:
                    return False
    return True


def _at_target(unit: Unit, file: PlannedFile) -> str:
    """Where *file* lies when *unit* lies at its target."""
    below = file.path.removeprefix(unit.path).split("/") if unit.is_folder else []
    return os.path.join(unit.target, *below)


def _compare(path: str, file: PlannedFile) -> None:
    """Raise :class:`SourceError` unless *path* has the length and the SHA-256 that are claimed of *file*."""
    with open_local(path) as source:
        if source.size != file.size:
            raise SourceError(f"{path}: {source.size:,} bytes, of {file.size:,} that are claimed")
        if file.sha256 is not None and (found := digest_of(source).sha256) != file.sha256:
            raise SourceError(f"{path}: its SHA-256 is {found}, and {file.sha256} is claimed")
