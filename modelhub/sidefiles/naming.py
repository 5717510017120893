"""Which files stand beside which models: told by names alone, from one listing of their folder.

A side file is called like its model with another extension (``NAME.civitai.info``), or like the model's whole file name
with one more (``NAME.safetensors.rgthree-info.json``). Names contain dots, so that only a whole name counts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from modelhub.sidefiles import a1111, civitai, lora_manager, modelspec, pictures, rgthree, stability_matrix

PICTURES = ("preview", "picture")
"""The dialects of pictures and films: those named as previews, and those that merely have the model's name."""

_NAMED: tuple[tuple[str, str], ...] = (
    (civitai.SUFFIX, "civitai"),
    (lora_manager.SUFFIX, "lora-manager"),
    *((suffix, "stability-matrix") for suffix in stability_matrix.SUFFIXES),
    (modelspec.SUFFIX, "swarmui"),
    (rgthree.SUFFIX, "rgthree"),
    (".config.json", "component-config"),
    (a1111.SUFFIX, "a1111"),
    (".description.txt", "description"),
    (".txt", "description"),
    (".sha256", "checksum"),
    (".yaml", "configuration"),
    (".yml", "configuration"),
    (".html", "page"),
    *((f".{word}{extension}", "preview") for extension in pictures.EXTENSIONS for word in ("preview", "thumb")),
    *((extension, "picture") for extension in pictures.EXTENSIONS),
)
_SUFFIXES: dict[str, list[tuple[str, str]]] = defaultdict(list)
for _suffix, _dialect in sorted(_NAMED, key=lambda each: -len(each[0])):
    _SUFFIXES[os.path.splitext(_suffix)[1] or _suffix].append((_suffix, _dialect))


class Beside(NamedTuple):
    """A side file's name, its dialect by that name, and the names of the models that it stands beside."""

    name: str
    dialect: str
    models: tuple[str, ...]


def is_side_file_name(name: str) -> bool:
    """Whether a file called *name* may stand beside a model, as far as its extension tells."""
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def beside(names: Iterable[str], models: Iterable[str], folders: Iterable[str] = ()) -> Iterator[Beside]:
    """Those of *names* that are side files of any of *models* and of *folders* that are one model, all of them names in
    one folder."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for model in models:
        owners[os.path.splitext(model)[0]].append(model)
        owners[model].append(model)
    for model in folders:
        owners[model].append(model)
    for name in names:
        folded = name.lower()
        for suffix, dialect in _SUFFIXES.get(os.path.splitext(folded)[1], ()):
            if folded.endswith(suffix) and (found := owners.get(name[: -len(suffix)])):
                yield Beside(name, dialect, tuple(found))
                break


def is_configuration(path: str, model: str) -> bool:
    """Whether the side file *path* of the file *model* is the one that says how it is to be run, which identification
    goes by (:func:`modelhub.identify.side_file.told_beside`)."""
    return path == os.path.splitext(model)[0] + ".yaml"


def beside_target(name: str, model: str, target: str) -> str:
    """The path at which the file *name*, beside the file or folder *model*, stands beside *target* likewise."""
    if name.startswith(model + "."):
        return target + name[len(model) :]
    return os.path.splitext(target)[0] + name[len(os.path.splitext(model)[0]) :]
