"""Deciding which modules of a LoRA get another rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from modelhub.container import Container
from modelhub.container.storages import Storages
from modelhub.convert import Piece
from modelhub.convert.convertible import convertible
from modelhub.errors import MergeError
from modelhub.lowrank.base import TYPES, FactorType, RankRule, ResizedModule, ResizePlan, nearest_type
from modelhub.merge.base import AdapterModule, Unmatched
from modelhub.merge.modules import adapter_modules
from modelhub.merge.peft import CONFIG
from modelhub.tensors import StateDict

_STALE = frozenset(
    {"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "ss_network_dim", "ss_network_alpha"}
)
_PEFT = frozenset({"lora_adapter_metadata", "lora_alpha", "r", "rank_pattern", "alpha_pattern"})
_ROLES = frozenset({"up", "down", "mid"})


def open_resize(container: Container, *, safe: bool, rule: RankRule, dtype: FactorType | None) -> ResizePlan:
    """The plan of resizing the LoRA in *container*. Raises :class:`MergeError` where it has no module to resize."""
    if container.source is None:
        raise MergeError(f"{container.name}: a folder is no LoRA", hint="name the file in it")
    state_dict = convertible(container)
    found = adapter_modules(container)
    storages = Storages(container.source)
    modules: list[ResizedModule] = []
    taken: set[str] = set()
    others: Counter[str] = Counter()
    magnitudes = 0
    several = Counter(module.name for module in found.modules if module.kind == "weight")
    biases = {each.name: each.tensors["diff"] for each in found.modules if each.kind == "bias" and each.factor != 1.0}
    for module in found.modules:
        if module.algorithm == "set" and not module.tensors["set"].tensor.name.endswith(".set_weight"):
            reason = f"is the model's own tensor, which {CONFIG} says and the file alone would not"
            raise MergeError(f"{container.name}: {module.name}: what was saved beside the LoRA {reason}")
        if module.kind != "weight":
            continue
        if module.algorithm != "lora" or not module.tensors.keys() <= _ROLES or several[module.name] > 1:
            others[_word(module)] += 1
            continue
        if not all(piece.tensor.numel for piece in module.tensors.values()):
            raise MergeError(f"{container.name}: {module.name}: it has a tensor without elements")
        rank = module.tensors["down"].tensor.shape[0]
        scale = 1.0 if module.alpha is None else module.alpha / rank
        names = {piece.tensor.name for piece in module.tensors.values()}
        alpha = f"{module.name}.alpha"
        peft = any("lora_A" in name for name in names)
        bias = biases.get(module.name)
        magnitudes += module.magnitudes is not None
        modules.append(ResizedModule(module.name, None if peft else alpha, module.tensors, scale, rank, bias))
        taken |= names | {alpha} | ({bias.tensor.name} if bias is not None else set())
    if not modules:
        kinds = f": it has {', '.join(sorted(others))}" if others else ""
        raise MergeError(f"{container.name}: it has no module of LoRA or LoCon to resize{kinds}")
    if any(module.alpha is None for module in modules):
        for each in found.refused:
            raise MergeError(f"{container.name}: {each.name}: {each.reason}, and its scale would be lost")
    copied = {name: Piece(*storages.locate(tensor)) for name, tensor in state_dict.items() if name not in taken}
    metadata = {k: v for k, v in state_dict.metadata.items() if k not in _STALE | _PEFT}
    notes = (
        *found.notes,
        *_notes(others, modules, magnitudes, state_dict, found.refused),
        *(_new_types(modules) if dtype is None else ()),
    )
    if rule.dynamic is None and all(module.rank <= rule.most(kernel=module.kernel) for module in modules):
        notes += ("no module has a rank above what is asked for: nothing is cut",)
    return ResizePlan(container.name, tuple(modules), copied, dict(others), rule, dtype, metadata, not safe, notes)


def _new_types(modules: list[ResizedModule]) -> Iterator[str]:
    types = {piece.tensor.dtype for module in modules for piece in module.tensors.values()}
    for dtype in sorted(types - set(TYPES.values()), key=lambda dtype: dtype.label):
        yield f"factors of {dtype.label} become {nearest_type(dtype).label}"


def _word(module: AdapterModule) -> str:
    return f"{module.algorithm} with a sparse part" if module.algorithm == "lora" else module.algorithm


def _notes(
    others: Mapping[str, int],
    modules: list[ResizedModule],
    magnitudes: int,
    state_dict: StateDict,
    refused: tuple[Unmatched, ...],
) -> Iterator[str]:
    for each in refused:
        yield f"{each.name} stays as it is: {each.reason}"
    for word, count in sorted(others.items()):
        yield f"modules of {word}, which keep their size: {count:,}"
    if magnitudes:
        yield f"modules with magnitudes (DoRA): {magnitudes:,}; the magnitudes stay, the direction loses what is cut"
    cores = sum("mid" in module.tensors for module in modules)
    if cores:
        yield f"convolutions in CP form, which become ordinary ones: {cores:,}"
    if any(key in state_dict.metadata for key in _PEFT):
        yield "PEFT's scales were in the metadata, and are in the factors now"
