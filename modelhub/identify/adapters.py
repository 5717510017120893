"""LoRA and its relatives: their dialects, algorithms, ranks and alphas, and the architecture they were made for.

The leaf of a name (``lora_down.weight``, ``hada_w1_a``) says the algorithm, its beginning the component and who wrote
it. The architecture is what all modules together leave open (:mod:`modelhub.identify.narrowing`). Where more than one
remains there is no architecture but the candidates.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from modelhub.identify.adapter_names import grouped, read_stem, told_by
from modelhub.identify.base import Adapter, Evidence, Identity
from modelhub.identify.modules import DIMENSIONS, Form, ModulePrefix, form_of
from modelhub.identify.names import Names
from modelhub.identify.narrowing import Narrowed, Told, narrowed, told
from modelhub.identify.prediction import claimed
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import PEFT_ALPHA
from modelhub.kept import Kept
from modelhub.tensor_table import shapes_of
from modelhub.tensors import Scalar, StateDict

Shape = tuple[int, ...]

_SHARE = 0.5
"""An adapter file consists of adapter tensors: at least this share of them (IA3 keeps as many plain weights)."""

_LARGEST_ALPHA = 1e12
"""LyCORIS writes 1e10 and the like for modules that are kept whole; what is larger is no alpha."""

_UNET_HEADS = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_")
_BLOCKS = ("oft", "blocks")
_DIFFUSERS = ("lora.down", "lora.up", "lora_linear", "loras.")
_USUAL, _USUAL_NAME = 16, 256
"""Tensors of one module, at most, and characters of its name that are remembered; there may be as many as a header has
room for."""

Pieces = tuple[tuple[str, Shape], ...]
"""The leaves of a module's tensors, each with its shape."""


class Kind(NamedTuple):
    """What is counted of modules; ``is_unet`` is set for one that lies where only UNets have modules."""

    component: str | None
    algorithm: str
    dialect: str
    is_unet: bool


class Sort(NamedTuple):
    """What the tensors of a module tell but for its rank, of which all ranks have the same: their leaves and form."""

    leaves: tuple[str, ...]
    form: Form


class Part(NamedTuple):
    """One module of any rank: of which kind, what is told of it, and what its alpha would be called."""

    kind: Kind
    told: Told
    alpha: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What names and shapes alone tell: how many of the names are an adapter's, and what its alphas would be called,
    those of modules that are alike together."""

    counted: int
    adapter: Adapter
    left: Narrowed
    alphas: tuple[tuple[str, ...], ...]


_LONGEST = 1 << 20
"""Characters of names and sizes of shapes, together, of a list that is remembered; trainers' have a tenth of it."""


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
    possible, architecture = left.architectures, left.architecture
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
    called = tuple(names.tensors)
    shapes = tuple(shapes_of(names.tensors))
    if sum(map(len, called)) + sum(map(len, shapes)) > _LONGEST:
        return _outline(called, shapes)
    return _known_outline(called, shapes)


def _outline(names: Sequence[str], shapes: Sequence[Shape]) -> Outline | None:
    groups = grouped(names, shapes)
    counted = sum(map(len, groups.values()))
    if not groups or counted < _SHARE * len(names):
        return None
    modules = []
    kinds: defaultdict[tuple[Kind, int | None], list[str]] = defaultdict(list)
    for stem, pieces in groups.items():
        rank, sort = _known_sorts[tuple(pieces)]
        kind, said, alpha = _known_parts[stem, sort]
        kinds[kind, rank].append(alpha)
        modules.append(said)
    alphas: defaultdict[tuple[str | None, str, int | None], list[str]] = defaultdict(list)
    for (kind, rank), those in kinds.items():  # trainers give those of one algorithm and rank the same
        alphas[kind.component, kind.algorithm, rank] += those
    adapter = _described({each: len(those) for each, those in kinds.items()})
    return Outline(counted, adapter, narrowed(modules), tuple(map(tuple, alphas.values())))


_known_outline = lru_cache(maxsize=16)(_outline)


def _sort(pieces: Pieces) -> tuple[int | None, Sort]:
    """The rank and the sort of a module of these *pieces*."""
    shapes = {told_by(leaf): shape for leaf, shape in pieces}
    if len(shapes) < len(pieces) and (part := shapes.pop(_BLOCKS, None)) is not None:
        shapes["oft", "part"] = part  # of a fused layer's several parts, whose sizes say nothing of the whole
    form = form_of(shapes)
    return form.rank, Sort(tuple([leaf for leaf, _ in pieces]), form._replace(rank=None))


def _part(module: tuple[str, Sort]) -> Part:
    """What is told of a *module*: its name and its sort."""
    stem, (leaves, form) = module
    prefix, path = read_stem(stem)
    component = prefix.component if prefix else None
    kind = Kind(component, form.algorithm, _dialect(stem, prefix, leaves), _UNET_HEADS.match(path) is not None)
    return Part(kind, told(stem, path, prefix, form), f"{stem}.alpha")


# The files of one trainer have most of their modules in common, and those of all of one model but for the ranks.
_known_sorts = Kept(
    _sort, 1 << 12, lambda pieces: len(pieces) <= _USUAL and all(len(shape) <= DIMENSIONS for _, shape in pieces)
)
_known_parts = Kept(_part, 1 << 15, lambda module: len(module[0]) <= _USUAL_NAME and len(module[1].leaves) <= _USUAL)


def _with_alphas(outline: Outline, names: Names, scalars: Mapping[str, Scalar], probe: Probe) -> Adapter:
    """The adapter with its alphas, read from its tensors or found among the values beside them."""
    alphas: Counter[float] = Counter()
    for alike in outline.alphas:
        there = list(filter(names.tensors.keys().__contains__, alike))
        values: list[Scalar] = [*probe.each(names.tensors, there)]
        if len(there) < len(alike):
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


def _described(kinds: Mapping[tuple[Kind, int | None], int]) -> Adapter:
    """The adapter of as many modules of each of *kinds* and ranks."""
    algorithms: Counter[str] = Counter()
    ranks: Counter[int] = Counter()
    dialects: Counter[str] = Counter()
    for (kind, rank), count in kinds.items():
        algorithms[kind.algorithm] += count
        dialects[kind.dialect] += count
        if rank is not None:
            ranks[rank] += count
    del algorithms[""]
    denoiser = "unet" if any(kind.is_unet for kind, _ in kinds) else "transformer"
    targets = {kind.component or "denoiser" for kind, _ in kinds}
    return Adapter(
        dialect=max(dialects, key=dialects.__getitem__),
        algorithms=dict(algorithms.most_common()),
        modules=sum(kinds.values()),
        rank=max(ranks, key=ranks.__getitem__, default=None),
        ranks=dict(ranks.most_common()),
        targets=tuple(denoiser if target == "denoiser" else target for target in sorted(targets)),
    )


def _dialect(name: str, prefix: ModulePrefix | None, leaves: Sequence[str]) -> str:
    """Who names modules so: by the beginning of the name, else by the leaf, else ``generic``."""
    if prefix and prefix.dialect:
        return prefix.dialect
    joined = " ".join(leaves)
    if "lora_A" in joined or "lora_B" in joined:
        return "peft"
    if ".processor." in name or any(word in joined for word in _DIFFUSERS):
        return "diffusers"
    return "generic"
