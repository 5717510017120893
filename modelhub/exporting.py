"""What the catalog knows of a model as a side file that another program reads.

What the user said comes first, then what the bytes say, then what others claim; digests are only those that were
computed. A file that is there is replaced only if it is an export that nobody has changed since, or if that is asked
for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelhub.convert.target import write_file
from modelhub.db import Catalog, Detail
from modelhub.db.triggers import LISTED, trigger_words
from modelhub.errors import CatalogError, ModelHubError, WouldOverwrite
from modelhub.identify.claims import claimed_architecture
from modelhub.sidefiles import Claims
from modelhub.sidefiles.fields import distinct
from modelhub.sidefiles.reading import LARGEST
from modelhub.sidefiles.writing import SUFFIXES, Subject, is_ours, written

BASE_MODELS = {
    "sd-1": "SD 1.5",
    "sd-2": "SD 2.1",
    "sdxl": "SDXL 1.0",
    "sdxl-refiner": "SDXL 1.0",
    "sd-3": "SD 3",
    "flux": "Flux.1 D",
    "flux-2": "Flux.2 D",
    "chroma": "Chroma",
    "auraflow": "AuraFlow",
    "kolors": "Kolors",
    "svd": "SVD",
    "cascade": "Stable Cascade",
    "qwen-image": "Qwen",
    "hidream": "HiDream",
    "ltx-video": "LTXV",
    "hunyuan-video": "Hunyuan Video",
}
"""Civitai's names of architectures (its ``baseModel``), where one of them is meant by each."""
KINDS = {
    "checkpoint": "Checkpoint",
    "diffusion-model": "Checkpoint",
    "lora": "LORA",
    "embedding": "TextualInversion",
    "hypernetwork": "Hypernetwork",
    "vae": "VAE",
    "controlnet": "Controlnet",
    "upscaler": "Upscaler",
    "motion-module": "MotionModule",
}
"""Civitai's names of kinds (its ``model.type``)."""


@dataclass(frozen=True, slots=True)
class Export:
    """One side file to be written: of which record, to which path, with which content.

    ``action`` is what will become of it: ``write``, ``replace`` (an older export, or what is asked to be overwritten),
    ``unchanged`` (it is there already, byte for byte), ``refuse`` (another program's file is there).
    """

    record: int
    name: str
    path: str
    data: bytes
    action: str


def plan_exports(
    catalog: Catalog, selectors: Sequence[str], dialect: str, to: str | None = None, *, overwrite: bool = False
) -> list[Export]:
    """What would be written of the records that *selectors* fit, in *dialect*: beside each model, or in folder *to*.

    Nothing is written yet. Raises :class:`CatalogError` for a record without a file, two that would be one file, and an
    unknown dialect; :class:`~modelhub.errors.Conflict` for a selector that fits none or several.
    """
    if dialect not in SUFFIXES:
        raise CatalogError(f"{dialect}: not a dialect that can be written", hint=f"these can: {', '.join(SUFFIXES)}")
    planned: dict[str, Export] = {}
    for selector in selectors:
        detail = catalog.show(selector)
        entry = detail.entry
        model = entry.path if entry.state == "live" else None
        if model is None and to is not None and detail.locations:
            model = detail.locations[0].path
        if model is None:
            raise CatalogError(f"{entry.name}: its file is not there", hint="--to DIR writes into a folder of its own")
        is_folder = any(place.is_folder for place in detail.locations if place.path == model)
        name = os.path.basename(model)
        stem = name if is_folder else os.path.splitext(name)[0]
        path = os.path.join(to if to is not None else os.path.dirname(model), stem + SUFFIXES[dialect])
        subject = Subject(model, name, entry.size, _modified(model), entry.architecture)
        data = written(dialect, facts_of(detail, stem), subject)
        if path in planned and planned[path].record != entry.id:
            other = planned[path].name
            raise CatalogError(f"{path}: would be written of two records, {other} and {entry.name}")
        planned[path] = Export(entry.id, entry.name, path, data, _action(path, data, overwrite))
    return list(planned.values())


def execute(export: Export) -> None:
    """Write what was planned; the file appears whole or not at all.

    Raises :class:`WouldOverwrite` for a file that is another program's, or has appeared since.
    """
    if export.action == "unchanged":
        return
    if export.action == "refuse":
        raise WouldOverwrite(f"{export.path}: another program's file is there", hint="--overwrite replaces it")
    write_file(export.path, export.data, force=export.action == "replace")


def _modified(path: str) -> float:
    try:
        return float(os.stat(path).st_mtime_ns // 10**9)
    except OSError:
        return 0.0


def _action(path: str, data: bytes, overwrite: bool) -> str:
    if not os.path.lexists(path):
        return "write"
    there = None if os.path.islink(path) or not os.path.isfile(path) else _content(path)
    if there == data:
        return "unchanged"
    if overwrite and not os.path.isdir(path):
        return "replace"
    return "replace" if there is not None and is_ours(there) else "refuse"


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError:
        return None
    return data if len(data) <= LARGEST else None


def facts_of(detail: Detail, stem: str) -> Claims:
    """What is to be said of the model of *detail*, whose file is called *stem*, in nobody's words yet."""
    said = [*_foreign(detail)]
    entry = detail.entry

    def claimed(name: str) -> Any:
        return next((value for each in said if (value := getattr(each, name)) not in (None, (), "")), None)

    stated = [phrase for each in said for phrase in each.triggers]
    named = entry.name if entry.name != stem else None
    return Claims(
        name=named or claimed("name") or stem,
        version=claimed("version"),
        base_model=_base_model(entry.architecture, said),
        kind=KINDS.get(entry.kind or "") or claimed("kind"),
        creator=claimed("creator"),
        nsfw=claimed("nsfw"),
        favourite=claimed("favourite"),
        triggers=distinct(stated) or trigger_words(detail.metadata)[:LISTED],
        negative=claimed("negative"),
        weight=claimed("weight"),
        tags=distinct([*entry.tags, *(tag for each in said for tag in each.tags)]),
        description=claimed("description"),
        notes=detail.notes or claimed("notes"),
        model_id=claimed("model_id"),
        version_id=claimed("version_id"),
        digests=tuple(_computed(detail)),
        dated=claimed("dated"),
    )


def _foreign(detail: Detail) -> Iterator[Claims]:
    """What others claim: not what an export of ours repeats, or a fact that was taken back would come back."""
    for claim in detail.claims:
        there = _content(claim.path) if claim.path is not None and claim.ended is None else None
        if there is None or not is_ours(there):
            yield replace(Claims.of(claim.facts), digests=())


def _base_model(architecture: str | None, said: Sequence[Claims]) -> str | None:
    """The claimed base model where it is of the architecture that the model has, else that architecture's own name."""
    names = [each.base_model for each in said if each.base_model]
    if architecture is None:
        return names[0] if names else None
    fitting = (name for name in names if claimed_architecture(name) == architecture and name[:1].isupper())
    return next(fitting, None) or BASE_MODELS.get(architecture, architecture)


_WIDTHS = {"autov1": 8, "autov3": 12}
"""Digits that Civitai keeps of a digest."""


def _computed(detail: Detail) -> Iterator[tuple[str, str]]:
    if detail.entry.digest is not None:
        yield "sha256", detail.entry.digest
        yield "autov2", detail.entry.digest[:10]
    for each in detail.digests:
        if each.origin == "computed" and each.algorithm in ("autov1", "autov3", "crc32", "blake3"):
            yield each.algorithm, each.value[: _WIDTHS.get(each.algorithm)]


def export_all(exports: Sequence[Export], *, dry_run: bool = False) -> Iterator[tuple[Export, ModelHubError | None]]:
    """Write each of *exports*, none of them with *dry_run*; yields each as it is done, with what barred it."""
    for export in exports:
        try:
            if not dry_run:
                execute(export)
            elif export.action == "refuse":
                raise WouldOverwrite(f"{export.path}: another program's file is there", hint="--overwrite replaces it")
        except ModelHubError as error:
            yield export, error
        else:
            yield export, None
