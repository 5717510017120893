"""Which files of a diffusers folder hold a component's weights: there are often the same ones several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelhub.container.base import Container
from modelhub.errors import ConversionError

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_EXTENSIONS = ("safetensors", "bin")


def weight_files(folder: Container) -> Mapping[str, tuple[str, ...]]:
    """The files that diffusers would load each component of *folder* from, by component; several are shards.

    Of the same weights twice, safetensors come before ``.bin`` files and those of no variant (``fp16``, ``ema``) before
    all others. Raises :class:`ConversionError` for an index that names files that are not there, and where there are
    only variants, and more than one.
    """
    found: dict[str, tuple[str, ...]] = {}
    for component in sorted({path.partition("/")[0] for path in folder.parts if path.count("/") == 1}):
        names = {path.partition("/")[2] for path in folder.parts if path.startswith(f"{component}/")}
        chosen = next(_choices(folder, component, names), None) or _only_variant(folder.name, component, names)
        if chosen:
            found[component] = tuple(f"{component}/{name}" for name in chosen)
    return found


def _choices(folder: Container, component: str, names: set[str]) -> Iterator[tuple[str, ...]]:
    for extension in _EXTENSIONS:
        for stem in _STEMS:
            name = f"{stem}.{extension}"
            if name in names:
                yield (name,)
            index = folder.configs.get(f"{component}/{name}.index.json")
            if index is not None:
                yield _shards(f"{folder.name}/{component}/{name}.index.json", index, names)


def _shards(path: str, index: Mapping[str, object], names: set[str]) -> tuple[str, ...]:
    places = index.get("weight_map")
    shards = sorted({str(shard) for shard in places.values()}) if isinstance(places, dict) else []
    lost = [shard for shard in shards if shard not in names]
    if lost or not shards:
        what = f"names {lost[0]!r:.100}, which is not there" if lost else "names no files"
        raise ConversionError(f"{path}: the index {what}")
    return tuple(shards)


def _only_variant(name: str, component: str, names: set[str]) -> tuple[str, ...]:
    """The one file whose name has a variant in it, such as ``model.fp16.safetensors``."""
    for extension in _EXTENSIONS:
        variants = [
            each
            for each in sorted(names)
            if each.endswith(f".{extension}") and each.count(".") == 2 and each.partition(".")[0] in _STEMS
        ]
        if len(variants) > 1:
            raise ConversionError(f"{name}: {component} is there in several variants only: {', '.join(variants)}")
        if variants:
            return (variants[0],)
    return ()
