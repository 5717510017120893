"""Which files of a repository are worth having, by their names.

Of a pickle and a safetensors file of the same weights, the latter; of a model in several precisions, the one asked for;
of a pipeline, the components that its index lists, without the single files that lie beside them; of weights of
other frameworks, none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from modelhub.source.resolve import is_model_name

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_SAFE = (".safetensors", ".sft")
_OTHER_FRAMEWORKS = (".msgpack", ".h5", ".onnx", ".ot", ".gguf", ".data", ".pb", ".tflite", ".mlmodel")
_BESIDE = (".json", ".txt", ".model")
_PARTS = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema_only|int8|fp8)(?=[.-])")
"""What diffusers (``save_pretrained(variant=...)``) puts between the name of a weights file and its extension."""

_PICKLED, _CONVERTED = "pytorch_model", "model"
"""What transformers calls the weights of a model, as a pickle and as a safetensors file."""


class Choice(NamedTuple):
    """The paths that are chosen, and those that are left out with the reason."""

    chosen: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def choose_loose(paths: Iterable[str], include: Sequence[str] = ()) -> Choice:
    """Of a repository of single files: each with a model's name, or each that one of *include* fits, twins apart."""
    listed = list(paths)
    return _chosen(listed, _wanted(include, lambda path: None if is_model_name(path) else "not a model by its name"))


def choose_folder(
    paths: Iterable[str], components: Sequence[str] | None, variant: str | None, include: Sequence[str] = ()
) -> Choice:
    """Of the folder of one model (*components* are those that a pipeline's index lists, ``None`` for no pipeline): its
    configurations, and one file, or set of shards, of weights in each place, that of *variant* where there is one.

    Hidden files, and all in hidden folders, are left out even where *include* fits: scans of folders pass over some.
    """
    listed = list(paths)

    def reason(path: str) -> str | None:
        name = path.rpartition("/")[2].lower()
        if name.endswith(_OTHER_FRAMEWORKS):
            return "of another framework"
        if not name.endswith((*_BESIDE, *_PICKLES, *_SAFE)):
            return "not needed to load it"
        top = path.partition("/")[0] if "/" in path else ""
        if components is not None and top and top not in components:
            return "not a component of the pipeline"
        if components is not None and not top and name.endswith((*_PICKLES, *_SAFE)):
            return "a single file beside the pipeline"
        return None

    wanted = _wanted(include, reason)
    first = _chosen(listed, lambda path: "a hidden file" if _is_hidden(path) else wanted(path))
    weights = {path for path in first.chosen if path.lower().endswith((*_PICKLES, *_SAFE)) or ".index." in path}
    left_out = dict(first.left_out)
    variants: dict[str, dict[str, str | None]] = {}
    for path in weights:
        match = _VARIANT.search(path.rpartition("/")[2])
        alike = _PARTS.sub("", _VARIANT.sub("", path, count=1))
        variants.setdefault(alike, {})[path] = match[1] if match else None
    for alike_weights in variants.values():
        there = set(alike_weights.values())
        best = variant if variant in there else None if None in there else min(map(str, there))
        left_out |= {path: f"another variant ({own or 'none'})" for path, own in alike_weights.items() if own != best}
    return Choice(tuple(path for path in first.chosen if path not in left_out), tuple(sorted(left_out.items())))


def variant_of(paths: Iterable[str]) -> str | None:
    """The precision that the weights among *paths* say in their names, all alike; ``None`` for none."""
    weights = [path.rpartition("/")[2] for path in paths if path.lower().endswith((*_PICKLES, *_SAFE))]
    found = {match[1] if match else None for match in map(_VARIANT.search, weights)}
    return found.pop() if len(found) == 1 else None


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _wanted(include: Sequence[str], reason: Callable[[str], str | None]) -> Callable[[str], str | None]:
    if not include:
        return reason
    return lambda path: None if any(fnmatchcase(path, each) for each in include) else "not included"


def _chosen(paths: Sequence[str], reason: Callable[[str], str | None]) -> Choice:
    left_out = {path: why for path in paths if (why := reason(path)) is not None}
    kept = [path for path in paths if path not in left_out]
    safe = {_weights(path) for path in kept if path.lower().endswith(_SAFE)}
    for path in kept:
        if path.lower().endswith(_PICKLES) and _weights(path) in safe:
            left_out[path] = "a safetensors file has the same weights"
        elif ".bin.index." in path and _weights(path.partition(".bin.index.")[0] + ".bin") in safe:
            left_out[path] = "of weights that are left out"
    return Choice(tuple(path for path in kept if path not in left_out), tuple(sorted(left_out.items())))


def _weights(path: str) -> str:
    """*path* without what differs between a pickle and a safetensors file of the same weights."""
    folder, _, name = path.rpartition("/")
    stem = _PARTS.sub("", name).rpartition(".")[0]
    if stem == _PICKLED or stem.startswith(f"{_PICKLED}."):
        stem = _CONVERTED + stem[len(_PICKLED) :]
    return f"{folder}/{stem}"
