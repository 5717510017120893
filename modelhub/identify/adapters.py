"""LoRA and its relatives: their dialects, algorithms, ranks and alphas, and the architecture they were made for.

The leaf of a name (``lora_down.weight``, ``hada_w1_a``) says the algorithm, its beginning the component and who wrote
it. The architecture is what all modules together leave open (:mod:`modelhub.identify.narrowing`). Where more than one
remains there is no architecture but the candidates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from modelhub.identify.base import Adapter, Evidence, Identity
from modelhub.identify.modules import Module, ModulePrefix
from modelhub.identify.names import Names
from modelhub.identify.narrowing import Narrowed, narrowed
from modelhub.identify.prediction import claimed
from modelhub.identify.probe import Probe
from modelhub.identify.registry import read_table
from modelhub.identify.side_file import PEFT_ALPHA
from modelhub.tensors import Scalar, StateDict, TensorInfo

_SHARE = 0.5
"""An adapter file consists of adapter tensors: at least this share of them (IA3 keeps as many plain weights)."""

_LARGEST_ALPHA = 1e12
"""LyCORIS writes 1e10 and the like for modules that are kept whole; what is larger is no alpha."""

_UNET_HEADS = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_")
_SUFFIXED = re.compile(r"(.+)_lora(\d*)")
"""``to_q_lora`` (diffusers' attention processors), ``qkv_lora1`` (XLabs): a leaf joined to its module."""


Facts = tuple[str, int | None]
"""A module's algorithm and rank."""


@dataclass(frozen=True, slots=True)
class Tables:
    """``signatures/adapters.toml``: leaves (algorithm and role, and whether they are weak) and beginnings of names."""

    leaves: Mapping[str, tuple[tuple[str, str], bool]]
    prefixes: tuple[ModulePrefix, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """What names and shapes alone tell: how many of the names are an adapter's, and what its alphas would be called,
    those of modules that are alike together."""

    counted: int
    adapter: Adapter
    left: Narrowed
    alphas: tuple[tuple[str, ...], ...]


_MOST_OUTLINES = 16
_LONGEST = 1 << 20
"""Characters of names and sizes of shapes, together, of a list that is remembered; trainers' have a tenth of it."""

_outlines: dict[tuple[tuple[str, ...], tuple[tuple[int, ...], ...]], Outline | None] = {}


def identify_adapter(names: Names, state_dict: StateDict, probe: Probe) -> Identity | None:
    """What a LoRA or one of its relatives consists of and was made for; ``None`` when the file is no adapter."""
    outline = _outlined(names)
    if outline is None:
        return None
    adapter = _with_alphas(outline, names, state_dict.scalars, probe)
    if adapter.alpha is None and (alpha := _number(state_dict.metadata.get(PEFT_ALPHA))) is not None:
        adapter = replace(adapter, alpha=alpha, alphas={alpha: adapter.modules})
    found = ", ".join(f"{count} {name}" for name, count in adapter.algorithms.items())
    evidence = [
        Evidence(
            "kind", "lora", "key", f"{outline.counted} of {len(names.tensors)} names end as an adapter's do: {found}"
        )
    ]
    left = outline.left
    evidence += left.evidence
    possible = left.architectures
    architecture = possible[0] if len(possible) == 1 else None
    if predicted := claimed(state_dict.metadata, possible):
        evidence.append(predicted)
    bundled = names.find("", "bundle_emb.") is not None
    if bundled:
        evidence.append(Evidence("components", "embedding", "key", "there is bundle_emb.*: embeddings of its own"))
    return Identity(
        kind="lora",
        architecture=architecture,
        variant=left.variant if architecture else None,
        prediction_type=predicted.value if predicted else None,
        components=("embedding",) if bundled else (),
        adapter=adapter,
        evidence=tuple(evidence),
        candidates=() if architecture else possible,
    )


def _outlined(names: Names) -> Outline | None:
    """The outline of *names*, remembered: a library has many files that differ in nothing but their numbers."""
    key = tuple(names.tensors), tuple([tensor.shape for tensor in names.tensors.values()])
    if key in _outlines:
        return _outlines[key]
    modules, counted = _modules(names)
    outline = None
    if modules and counted >= _SHARE * len(names.tensors):
        facts = [module.form[:2] for module in modules]
        outline = Outline(counted, _described(modules, facts), narrowed(modules), _alphas(modules, facts))
    if sum(map(len, key[0])) + sum(map(len, key[1])) <= _LONGEST:
        while len(_outlines) >= _MOST_OUTLINES:
            del _outlines[next(iter(_outlines))]
        _outlines[key] = outline
    return outline


def _alphas(modules: tuple[Module, ...], facts: Sequence[Facts]) -> tuple[tuple[str, ...], ...]:
    """What the alphas of *modules* are called; trainers give those of one component, algorithm and rank the same."""
    alike: dict[tuple[str | None, str, int | None], list[str]] = {}
    for module, (algorithm, rank) in zip(modules, facts, strict=True):
        component = module.prefix.component if module.prefix else None
        alike.setdefault((component, algorithm, rank), []).append(f"{module.name}.alpha")
    return tuple(map(tuple, alike.values()))


def modules_of(names: Names) -> tuple[Module, ...]:
    """The modules that an adapter changes, without their alphas."""
    return _modules(names)[0]


def _modules(names: Names) -> tuple[tuple[Module, ...], int]:
    """The changed modules, and how many names are theirs."""
    modules: dict[str, Module] = {}
    weak: list[tuple[str, str, str, str, TensorInfo]] = []
    counted = 0
    for split, tensor in zip(map(_split, names.tensors), names.tensors.values(), strict=True):
        if split is None:
            continue
        stem, leaf, told, is_weak = split
        if is_weak:
            weak.append((stem, leaf, *told, tensor))
            continue
        if (module := modules.get(stem)) is None:
            module = modules[stem] = _module(stem)
        module.tensors[told] = tensor
        module.leaves.append(leaf)
        counted += 1
    for stem, leaf, algorithm, role, tensor in weak:
        if stem not in modules:
            named = _module(stem)
            if named.prefix is None or not algorithm:
                continue
            modules[stem] = named
        module = modules[stem]
        module.tensors[algorithm, role] = tensor
        module.leaves.append(leaf)
        counted += 1
    return tuple(modules.values()), counted


@lru_cache(maxsize=1 << 15)
def _split(name: str) -> tuple[str, str, tuple[str, str], bool] | None:
    """*name* as module and leaf, with the leaf's algorithm and role and whether it is weak; ``None`` when it ends in no
    leaf of an adapter."""
    split = _parted(name)
    return (*split, *_tables().leaves[split[1]]) if split is not None else None


def _parted(name: str) -> tuple[str, str] | None:
    leaves = _tables().leaves
    cut = len(name)
    for _ in range(3):
        cut = name.rfind(".", 0, cut)
        if cut <= 0:
            return None
        if (leaf := name[cut + 1 :]) in leaves:
            return name[:cut], leaf
    head, last = name[:cut], leaf.split(".")
    if (starred := f"{last[0]}.*.{last[2]}") in leaves:
        return head, starred
    if last[1:] in (["down", "weight"], ["up", "weight"]) and (match := _SUFFIXED.fullmatch(last[0])):
        return f"{head}.{match[1]}{match[2]}", f"lora.{last[1]}.weight"
    return None


def _module(stem: str) -> Module:
    prefix, path = _read(stem)
    return Module(stem, path, prefix)


@lru_cache(maxsize=1 << 15)
def _read(stem: str) -> tuple[ModulePrefix | None, str]:
    """How *stem* begins, and the module's path behind that. Files of one trainer share most of their names."""
    bare = stem.removeprefix("base_model.model.").removeprefix("base_model.")
    prefix = next((each for each in _tables().prefixes if bare.startswith(each.begins)), None)
    path = bare if prefix is None or prefix.keep else bare[len(prefix.begins) :]
    return prefix, path.replace(".processor.", ".").replace(".", "_")


def _with_alphas(outline: Outline, names: Names, scalars: Mapping[str, Scalar], probe: Probe) -> Adapter:
    """The adapter with its alphas, read from its tensors or found among the values beside them."""
    alphas: Counter[float] = Counter()
    for alike in outline.alphas:
        tensors = [tensor for name in alike if (tensor := names.tensors.get(name))]
        values: list[Scalar] = [*probe.each(tensors)]
        if len(tensors) < len(alike):
            values += [scalars.get(name) for name in alike if name not in names.tensors]
        for value, count in Counter(values).items():
            if isinstance(value, int | float) and abs(value) <= _LARGEST_ALPHA:
                alphas[float(f"{value:.6g}")] += count
    most = max(alphas, key=alphas.__getitem__, default=None)
    return replace(outline.adapter, alpha=most, alphas=dict(alphas.most_common()))


def _number(text: str | None) -> float | None:
    """*text* as an alpha, ``None`` when it is none: a file's own metadata may say anything."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST_ALPHA else None  # which no NaN is


def _described(modules: tuple[Module, ...], facts: Sequence[Facts]) -> Adapter:
    algorithms = Counter(algorithm for algorithm, _ in facts if algorithm)
    ranks = Counter(rank for _, rank in facts if rank is not None)
    dialects = Counter(_dialect(module) for module in modules)
    denoiser = "unet" if any(_UNET_HEADS.match(module.path) for module in modules) else "transformer"
    targets = {module.prefix.component if module.prefix else "denoiser" for module in modules}
    return Adapter(
        dialect=max(dialects, key=dialects.__getitem__),
        algorithms=dict(algorithms.most_common()),
        modules=len(modules),
        rank=max(ranks, key=ranks.__getitem__, default=None),
        ranks=dict(ranks.most_common()),
        targets=tuple(denoiser if target == "denoiser" else target for target in sorted(targets)),
    )


def _dialect(module: Module) -> str:
    """Who names modules so: by the beginning of the name, else by the leaf, else ``generic``."""
    if module.prefix and module.prefix.dialect:
        return module.prefix.dialect
    leaves = " ".join(module.leaves)
    if "lora_A" in leaves or "lora_B" in leaves:
        return "peft"
    if ".processor." in module.name or "lora.down" in leaves or "lora.up" in leaves or "lora_linear" in leaves:
        return "diffusers"
    return "generic"


@cache
def _tables() -> Tables:
    table = read_table("adapters")
    leaves = {leaf: ((algorithm, role), False) for leaf, (algorithm, role) in table["leaves"].items()}
    leaves |= {leaf: ((algorithm, role), True) for leaf, (algorithm, role) in table["weak_leaves"].items()}
    prefixes = tuple(
        ModulePrefix(**{**each, "candidates": tuple(each.get("candidates", ()))}) for each in table["module"]
    )
    return Tables(leaves, prefixes)
