"""How adapters name their tensors: a module and a leaf, in every dialect (``signatures/adapters.toml``)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from modelhub.identify.layers import layers
from modelhub.identify.modules import Module, ModulePrefix
from modelhub.identify.names import Names
from modelhub.identify.registry import read_table
from modelhub.kept import Kept

T = TypeVar("T")

_USUAL_NAME = 256
"""Characters of a name that is kept."""

_SUFFIXED = re.compile(r"(.+)_lora(\d*)")
"""``to_q_lora`` (diffusers' attention processors), ``qkv_lora1`` (XLabs): a leaf joined to its module."""

_LISTED = re.compile(r"(.+)_loras(\.\d+)?")
"""``q_loras`` (Stand-In), ``q_loras.0`` (EasyControl): the same, for the tokens of a condition alone."""

_WRAPPERS = ("base_model.model.", "base_model.", "module.")
"""What PEFT and DataParallel leave before a name, or between the component's name and the module's."""

_FLAT = ("lora_unet_", "lora_te", "lora_transformer_", "lora_prior_", "lycoris_", "oft_unet_")
"""How whole names of modules begin, without a dot in them; what stands before one is a wrapper's."""

_MOST_PARTS = 4
"""Parts of a name, at most, that are tried to be left out before the name of a layer."""


@dataclass(frozen=True, slots=True)
class Tables:
    """``signatures/adapters.toml``: the algorithm and role of each leaf, those among them that are ``weak``, and
    beginnings of names."""

    leaves: Mapping[str, tuple[str, str]]
    weak: frozenset[str]
    prefixes: tuple[ModulePrefix, ...]


def modules_of(names: Names) -> tuple[Module, ...]:
    """The modules that an adapter changes, without their alphas."""
    leaves = _tables().leaves
    modules = []
    for stem, pieces in grouped(names.tensors, names.tensors.values()).items():
        prefix, path = read_stem(stem)
        tensors = {leaves[leaf]: tensor for leaf, tensor in pieces}
        modules.append(Module(stem, path, prefix, tensors, [leaf for leaf, _ in pieces]))
    return tuple(modules)


def grouped(names: Iterable[str], values: Iterable[T]) -> dict[str, list[tuple[str, T]]]:
    """The tensors called *names* by the name of their module: the leaf of each with the one of *values* that is its."""
    groups: defaultdict[str, list[tuple[str, T]]] = defaultdict(list)
    weak: list[tuple[str, str, T]] = []
    for split, value in zip(map(_splits.__getitem__, names), values, strict=True):
        if split is None:
            continue
        stem, leaf, is_weak = split
        if is_weak:
            weak.append((stem, leaf, value))
        else:
            groups[stem].append((leaf, value))
    for stem, leaf, value in weak:
        if stem in groups or (read_stem(stem)[0] is not None and told_by(leaf)[0]):
            groups[stem].append((leaf, value))
    return groups


def told_by(leaf: str) -> tuple[str, str]:
    """The algorithm and the role that *leaf* tells."""
    return _tables().leaves[leaf]


def read_stem(stem: str) -> tuple[ModulePrefix | None, str]:
    """How *stem* begins, and the module's path behind that."""
    return _stems[stem]


def rest_of(stem: str) -> str:
    """What follows in *stem* behind the beginning that :func:`read_stem` knows, as it stands there: the name of a
    layer, perhaps with leading parts before it that :func:`read_stem` leaves out."""
    prefix, _ = read_stem(stem)
    bare = _unwrapped(stem)
    return bare if prefix is None or prefix.keep else _unwrapped(bare[len(prefix.begins) :])


def flat(path: str) -> str:
    """*path* with underscores for dots; some trainers leave one before it or behind."""
    return path.replace(".processor.", ".").replace(".", "_").strip("_")


def _stem(stem: str) -> tuple[ModulePrefix | None, str]:
    bare = _unwrapped(stem)
    prefix = next((each for each in _tables().prefixes if bare.startswith(each.begins)), None)
    if prefix is None:
        return None, _layer(bare)
    if prefix.keep:
        return prefix, flat(bare)
    path = _unwrapped(bare[len(prefix.begins) :])
    return prefix, _layer(path) if prefix.component == "denoiser" else flat(path)


def _unwrapped(stem: str) -> str:
    for wrapper in _WRAPPERS:
        stem = stem.removeprefix(wrapper)
    last = stem[stem.rfind(".") + 1 :]
    return last if last.startswith(_FLAT) else stem


def _layer(path: str) -> str:
    """*path*, flat, without the leading parts (``pipe.dit.``) before the name of a layer that some architecture has."""
    whole = last = flat(path)
    for _ in range(_MOST_PARTS):
        if layers().places(last):
            return last
        _, dot, path = path.partition(".")
        if not dot:
            break
        last = flat(path)
    return whole


def _split(name: str) -> tuple[str, str, bool] | None:
    """*name* as module and leaf, and whether the leaf is weak; ``None`` when it ends in no leaf of an adapter."""
    split = _parted(name)
    return (*split, split[1] in _tables().weak) if split is not None else None


def _is_usual(name: str) -> bool:
    return len(name) <= _USUAL_NAME


# Files of one trainer share most of their names.
_stems = Kept(_stem, 1 << 15, _is_usual)
_splits = Kept(_split, 1 << 15, _is_usual)


def _parted(name: str) -> tuple[str, str] | None:
    leaves = _tables().leaves
    cut = len(name)
    if name.endswith((":up", ":down")):  # cloneofsimo's first LoRAs: unet:0:up
        stem, _, side = name.rpartition(":")
        return stem, f"lora.{side}.weight"
    for _ in range(3):
        cut = name.rfind(".", 0, cut)
        if cut <= 0:
            return None
        if (leaf := name[cut + 1 :]) in leaves:
            return name[:cut], leaf
        if (numbered := f"{leaf.partition('.')[0]}.*") in leaves:
            return name[:cut], numbered
    head, last = name[:cut], leaf.split(".")
    if (starred := f"{last[0]}.*.{last[2]}") in leaves:
        return head, starred
    if last[1:] in (["down", "weight"], ["up", "weight"]):
        if match := _SUFFIXED.fullmatch(last[0]):
            return f"{head}.{match[1]}{match[2]}", f"lora.{last[1]}.weight"
        if match := _LISTED.fullmatch(f"{head}.{last[0]}"):
            return match[1], f"loras.{last[1]}.weight"
    return None


@cache
def _tables() -> Tables:
    table = read_table("adapters")
    leaves = {leaf: (algorithm, role) for leaf, (algorithm, role) in (table["leaves"] | table["weak_leaves"]).items()}
    prefixes = tuple(
        ModulePrefix(**{**each, "candidates": tuple(each.get("candidates", ()))}) for each in table["module"]
    )
    return Tables(leaves, frozenset(table["weak_leaves"]), prefixes)
