"""A diffusers folder as one checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set

from modelhub.container.base import Container
from modelhub.convert.base import Assembly, Draft
from modelhub.convert.folder_files import FolderFiles, Shards, drafts_of, weight_groups
from modelhub.convert.layouts import FOLDER_COMPONENTS, UNPLACED
from modelhub.convert.relayout import UNPLACED_FILE, as_checkpoint
from modelhub.errors import ConversionError
from modelhub.tensors import Leftover

_STEMS = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call a component's weights; between stem and ending there may be a variant."""


def checkpoint_of(folder: Container, beside: FolderFiles) -> tuple[Draft, dict[str, str]]:
    """The diffusers *folder* as a checkpoint, and the metadata that its files agree on; *beside* are its other files.

    Raises what reading a file of weights raises, and :class:`ConversionError` for a folder without a model of the sort.
    """
    groups, left = weight_groups(folder)
    chosen = component_weights(groups, folder.name)
    components: dict[str, dict[str, Assembly]] = {}
    agreed: set[tuple[str, str]] | None = None
    leftovers = [*left, *beside.left]
    for component, shards in chosen.items():
        drafts, metadata, unread = drafts_of(folder, shards)
        components[component] = {name: made for draft in drafts.values() for name, made in draft.tensors.items()}
        leftovers += unread
        agreed = set(metadata.items()) if agreed is None else agreed & set(metadata.items())
    draft = as_checkpoint(components, folder.name)
    unused = [shards for shards in groups if shards not in chosen.values()]
    leftovers += [
        Leftover(path, "weights that a checkpoint has no place for") for each in unused for path in each.files
    ]
    leftovers += [Leftover(plain.path, "a file that a checkpoint has no place for") for plain in beside.plain]
    return draft.changed(draft.tensors, left=leftovers), dict(sorted(agreed or ()))


def component_weights(
    groups: tuple[Shards, ...], name: str, components: Set[str] = FOLDER_COMPONENTS
) -> Mapping[str, Shards]:
    """The one of the *groups* of the folder *name* that each of *components* is loaded from.

    That is the one of no variant (``fp16``, ``ema``), else the only one there is. Raises :class:`ConversionError` where
    there are only variants, and more than one.
    """
    chosen: dict[str, Shards] = {}
    variants: dict[str, list[Shards]] = {}
    for shards in groups:
        component, _, file = shards.path.partition("/")
        stem, _, variant = os.path.splitext(file)[0].partition(".")
        if shards.path == UNPLACED_FILE:
            chosen[UNPLACED] = shards
        elif component in components and stem in _STEMS and not variant:
            chosen[component] = shards
        elif component in components and stem in _STEMS:
            variants.setdefault(component, []).append(shards)
    for component, several in variants.items():
        if component not in chosen and len(several) > 1:
            paths = ", ".join(shards.path for shards in several)
            raise ConversionError(f"{name}: {component} is there in several variants only: {paths}")
        chosen.setdefault(component, several[0])
    return chosen
