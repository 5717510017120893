"""What a folder says that it consists of, and what of that is not there: shards, and the components of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelhub.container.base import Container

_INDEX = re.compile(r".+\.index(\.[\w-]+)?\.json")
"""What lists of shards are called (``diffusion_pytorch_model.safetensors.index.fp16.json``)."""

_NUMBERED = re.compile(r"(.+-)(\d{5})-of-(\d{5})(.*\.\w+)")
_MOST = 10_000  # shards that are looked for in all
_PIPELINE = "model_index.json"
_NOT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Scheduler", "Processor", "FeatureExtractor", "ProcessorFast")
"""Ends of the classes of components that have no weights."""


def shards_of(folder: Container) -> tuple[int, tuple[str, ...]]:
    """How many shards *folder* is said to have, and the paths of those that are not there.

    The index says it (``weight_map``) or, without one, the numbers in the files' names.
    """
    wanted: set[str] = set()
    for path, config in folder.configs.items():
        weights = config.get("weight_map") if _INDEX.fullmatch(path) else None
        if isinstance(weights, Mapping):
            below = path.rpartition("/")[0]
            names = {name for name in weights.values() if isinstance(name, str)}
            if len(names) <= _MOST - len(wanted):
                wanted |= {f"{below}/{name}" if below else name for name in names}
    numbered = (_NUMBERED.fullmatch(path) for path in folder.parts)
    for stem, count, end in sorted({(match[1], match[3], match[4]) for match in numbered if match}):
        if 0 < int(count) <= _MOST - len(wanted):
            wanted |= {f"{stem}{number:05}-of-{count}{end}" for number in range(1, int(count) + 1)}
    return len(wanted), tuple(sorted(wanted - folder.parts.keys()))


def missing_components(folder: Container) -> tuple[str, ...]:
    """The components that a pipeline's index lists with a class that has weights, and that have no file here."""
    listed = components_of(folder.configs.get(_PIPELINE, {}))
    return tuple(name for name in listed if not any(path.startswith(f"{name}/") for path in folder.parts))


def components_of(index: Mapping[str, object]) -> tuple[str, ...]:
    """The components with weights that a pipeline's *index* lists as ``name: [library, class]``."""
    return tuple(
        name
        for name, value in index.items()
        if not name.startswith("_")
        and isinstance(value, list)
        and len(value) == 2
        and isinstance(value[1], str)
        and not value[1].endswith(_NOT_WEIGHTS)
    )
