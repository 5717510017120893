"""What fetching an address would bring: which files, of what size, under what verdict and licence."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from modelhub.errors import NotFound, SourceError
from modelhub.fetching.choose import choose_folder, choose_loose
from modelhub.judging import ScanOptions, judge
from modelhub.scan import Policy, ScanReport, Verdict, load_policy
from modelhub.source import names_one_model, shown_address
from modelhub.source.buckets import BucketReference
from modelhub.source.names import check_name, check_names
from modelhub.source.network import File, RemoteFolder, folder_around, model_folders, open_address, place_at, place_of
from modelhub.source.remote import RangesIgnored

if TYPE_CHECKING:
    from modelhub.source.hub import Reference

_INDEX = "model_index.json"
_BESIDE = (".json", ".txt", ".model")
_LARGEST_INDEX = 1 << 20


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file: its path in the repository, bytes, and the SHA-256 that is claimed of it (``None``: none is); ``etag``
    is by what the source tells its bytes from others."""

    path: str
    size: int
    sha256: str | None
    etag: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unit:
    """What is admitted as one: a file, or a folder that is one model (its ``path`` ends with ``/``, or is empty).

    ``address`` is where it lies, pinned; ``target`` where it is put; ``reports`` what a scan over the network says of
    each of its weights.
    """

    address: str
    path: str
    files: tuple[PlannedFile, ...]
    target: str
    reports: tuple[ScanReport, ...]

    @property
    def is_folder(self) -> bool:
        return not self.path or self.path.endswith("/")

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def may_be_fetched(self) -> bool:
        """Whether all of it is SAFE, or could only not be judged from a distance."""
        return all(report.verdict is Verdict.SAFE or _is_too_far(report) for report in self.reports)

    @property
    def verdict(self) -> Verdict:
        """The worst of the reports', UNKNOWN without one."""
        return max((report.verdict for report in self.reports), default=Verdict.UNKNOWN)


def _is_too_far(report: ScanReport) -> bool:
    return report.container is None and any(finding.rule == "source.unreadable" for finding in report.findings)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What would be fetched from *address*, pinned and as it may be shown, to below *folder*.

    ``claims`` are what the source says (:func:`modelhub.source.hub.claims_of`); ``left_out`` the other files with the
    reason; ``free`` the bytes that the disk has; ``asked`` the revision that was asked for, as it was written.
    """

    address: str
    folder: str
    units: tuple[Unit, ...]
    free: int
    claims: dict[str, object] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    asked: str | None = None

    @property
    def size(self) -> int:
        return sum(unit.size for unit in self.units)


def plan_fetch(
    address: str,
    folder: str,
    *,
    include: Sequence[str] = (),
    variant: str | None = None,
    sha256: str | None = None,
    policy: Policy | None = None,
) -> FetchPlan:
    """Look at what lies at *address*, without downloading it, and plan to put it below *folder*.

    *include* are patterns of paths in the repository, *variant* a precision such as ``fp16`` where there are several;
    *sha256* is what the file at an address outside the Hub must have. Raises :class:`SourceError` when it cannot be
    looked at, or when a name of the server's would lead out of *folder*.
    """
    policy = policy or load_policy()
    reference, shown = place_of(address), shown_address(address)
    pinned: Reference | BucketReference
    claims: dict[str, object] = {}
    if reference is None or isinstance(reference, BucketReference):
        try:
            if reference is None or not reference.is_folder:
                return FetchPlan(shown, folder, (_single(address, folder, sha256, policy),), _free(folder))
        except NotFound:
            if reference is None:
                raise
        pinned, top = reference, reference.bucket
    else:
        from modelhub.source import hub

        info = hub.about(reference)
        pinned = reference._replace(revision=hub.commit_of(info, reference))
        claims, top = hub.claims_of(info), pinned.repo.rpartition("/")[2]
    if sha256 is not None:
        raise SourceError(f"{shown}: --sha256 is for one file outside the Hub", path=shown)
    listed = {file.path: file for file in place_at(pinned).files_of(_folder_of(pinned))}
    groups, left_out = _groups(pinned, listed, include, variant)
    check_names(path for _, paths in groups for path in paths)
    units = []
    for path, paths in groups:
        files = tuple(_planned(listed[each]) for each in paths)
        judged = tuple(_judged(str(pinned._replace(path=each)), policy) for each in paths if is_weights(each))
        target = os.path.join(folder, top, *filter(None, path.split("/")))
        units.append(Unit(str(pinned._replace(path=path)), path, files, target, judged))
    if not units:
        raise NotFound(f"{shown}: no model file is there, or none is included", path=shown)
    asked = getattr(reference, "revision", None)
    return FetchPlan(str(pinned), folder, tuple(units), _free(folder), claims, left_out, asked)


def _planned(file: File) -> PlannedFile:
    return PlannedFile(file.path, file.size, file.sha256, file.etag)


def is_weights(path: str) -> bool:
    """Whether the file *path* is judged before it is downloaded: all but a model's configurations and vocabularies."""
    return not path.lower().endswith(_BESIDE)


def _folder_of(pinned: Reference | BucketReference) -> Reference | BucketReference:
    """Where *pinned* is listed: a file's folder on the Hub, or itself."""
    if pinned.is_folder or isinstance(pinned, BucketReference):
        return pinned
    return pinned._replace(path=pinned.path.rpartition("/")[0])


def _groups(
    pinned: Reference | BucketReference, listed: Mapping[str, File], include: Sequence[str], variant: str | None
) -> tuple[list[tuple[str, tuple[str, ...]]], tuple[tuple[str, str], ...]]:
    """What is admitted as one, by its path, with its files; and what is left out."""
    if pinned.path in listed:
        return [(pinned.path, (pinned.path,))], ()
    top = f"{pinned.path.rstrip('/')}/" if pinned.path else ""
    below = [path for path in listed if path.startswith(top)]
    groups: list[tuple[str, tuple[str, ...]]] = []
    left_out: list[tuple[str, str]] = []
    models = model_folders(below, names_one_model)
    inside: dict[str, list[str]] = {model: [] for model in models}
    single: list[str] = []
    for path in below:
        model = folder_around(path, models)
        (single if model is None else inside[model]).append(path)
    for model, paths in inside.items():
        relative = [path.removeprefix(model) for path in paths]
        choice = choose_folder(relative, _components(pinned._replace(path=model), relative), variant, include)
        left_out += [(model + path, why) for path, why in choice.left_out]
        if choice.chosen:
            groups.append((model, tuple(model + path for path in choice.chosen)))
    loose = choose_loose(single, include)
    groups += [(path, (path,)) for path in loose.chosen]
    return groups, tuple(sorted([*left_out, *loose.left_out]))


def _components(model: Reference | BucketReference, inside: Sequence[str]) -> tuple[str, ...] | None:
    """The folders of a pipeline that its index lists; ``None`` for what is no pipeline."""
    if _INDEX not in inside:
        return None
    with ExitStack() as stack:
        source = open_address(str(model._replace(path=model.path + _INDEX)), stack)
        assert not isinstance(source, RemoteFolder)
        try:
            index = json.loads(source.read_at(0, min(source.size, _LARGEST_INDEX)))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{model}: its {_INDEX} is not JSON", path=str(model)) from error
    listed = index if isinstance(index, dict) else {}
    return tuple(name for name, value in listed.items() if isinstance(value, list) and any(value))


def _single(address: str, folder: str, sha256: str | None, policy: Policy) -> Unit:
    """The file at an address outside the Hub."""
    reference = place_of(address)
    path = reference.path if reference is not None else unquote(urlsplit(address).path)
    name = path.rpartition("/")[2]
    check_name(name)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise SourceError(f"{sha256}: not a SHA-256: 64 hex digits are needed")
    file = PlannedFile(name, 0, sha256 and sha256.lower())
    try:
        with ExitStack() as stack:
            source = open_address(address, stack)
            assert not isinstance(source, RemoteFolder)
            file = replace(file, size=source.size, etag=source.tag)
            address = source.name if reference is not None else address
    except RangesIgnored as error:  # so it is judged when it is here
        file = replace(file, size=error.size)
    return Unit(address, name, (file,), os.path.join(folder, name), (_judged(address, policy),))


def _judged(address: str, policy: Policy) -> ScanReport:
    return judge(address, address, ScanOptions(policy, digest=False, second_opinion=False)).report


def _free(folder: str) -> int:
    """Bytes that are free where *folder* is, or would be."""
    here = os.path.abspath(folder)
    while not os.path.isdir(here):
        here = os.path.dirname(here)
    return shutil.disk_usage(here).free
