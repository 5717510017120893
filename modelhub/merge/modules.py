"""What the tensors of an adapter file are: modules with an algorithm and their tensors by role, in every dialect.

The names are read by identification's tables (:mod:`modelhub.identify.adapters`); what stands in no table has no module
and is said to be left over.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from modelhub.container.base import Container
from modelhub.container.storages import Storages
from modelhub.convert import Piece
from modelhub.convert.convertible import convertible
from modelhub.convert.stream import lies_ready
from modelhub.identify import numbers
from modelhub.identify.adapter_names import flat, modules_of, rest_of
from modelhub.identify.modules import Module
from modelhub.identify.names import Names
from modelhub.merge.base import AdapterModule, Kind, NotMerged, Unmatched
from modelhub.merge.codes import EIGHT_BITS, number_of
from modelhub.merge.components import component_of
from modelhub.merge.peft import PEFT_ROOT, Configuration, as_number
from modelhub.merge.saved import saved_module
from modelhub.merge.unmerged import check_merged
from modelhub.tensors import DType, StateDict, TensorInfo

_SPLIT = re.compile(r'"split_qkv":\s*"?true', re.IGNORECASE)
_FUSED = re.compile(r"(double|single|joint)_blocks_\d+_.*(qkv|linear1)$")
_BUNDLED = "bundle_emb."
_SPARSE = ("bias_indices", "bias_values", "bias_size")
_INTEGERS = frozenset({DType.BOOL, DType.U8, DType.I8, DType.I16, DType.I32, DType.I64})
_WHOLE = frozenset({"bias_indices", "bias_size", "on_input"})
"""Roles of tensors that may be of whole numbers; elsewhere these are codes of something quantised."""

_SCALED = frozenset({"lora", "loha", "glora", "oft"})
_RANKED = frozenset({"w1_b", "w2_b"})
_WRAPPERS = frozenset(
    ("pipe", "dit", "net", "unet", "transformer", "diffusion_model", "base_model", "model", "module", "_orig_mod")
) | {"student", "generator", "lora", "lycoris"}
"""What programs leave before a module's name, and what says nothing of whose it is."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The modules of an adapter file, those that are not merged, the tensors of it that are of none, and sentences on
    it."""

    modules: tuple[AdapterModule, ...]
    refused: tuple[Unmatched, ...]
    left: tuple[Unmatched, ...]
    notes: tuple[str, ...] = ()

    @property
    def unmatched(self) -> tuple[Unmatched, ...]:
        """What of the file is not merged."""
        return self.left + self.refused


def adapter_modules(container: Container) -> Adapter:
    """The modules of the adapter file *container*, in the file's order; of its tensors only single numbers are read.

    Raises what :func:`~modelhub.convert.convertible.convertible` raises for a file whose tensors cannot be had.
    """
    assert container.source is not None
    state_dict = convertible(container)
    storages = Storages(container.source)
    found = modules_of(Names(state_dict))
    taken = {tensor.name for module in found for tensor in module.tensors.values()}
    extra = _extra(state_dict, found, taken)
    taken |= {tensor.name for roles in extra.values() for tensor in roles.values()}
    configuration = Configuration(container.name, state_dict.metadata)

    def piece(tensor: TensorInfo, role: str) -> Piece:
        dtype = tensor.dtype
        if not (dtype.is_float or dtype in EIGHT_BITS or (role in _WHOLE and dtype in _INTEGERS)):
            raise NotMerged(f"its tensor {tensor.name!r:.100} is of type {dtype.label}, which is not merged")
        return Piece(*storages.locate(tensor))

    def number(tensor: TensorInfo) -> float | None:
        if tensor.numel != 1:
            return None
        source, located = storages.locate(tensor)
        if tensor.dtype in EIGHT_BITS and lies_ready(located, tensor.dtype):
            return number_of(tensor.dtype, source.read_at(located.start, 1)[0])
        values = numbers(located, source.read_at)
        return values[0] if values else None

    made: list[AdapterModule] = []
    refused: list[Unmatched] = []
    several = _Beginnings(f"{each.name}." for each in found if _has_several(each, extra.get(each.name, {})))
    left: list[Unmatched] = []
    for name, tensor in state_dict.items():
        if name in taken or name.startswith(_BUNDLED) or several.begin(name):
            continue
        try:
            if (saved := saved_module(tensor, configuration, piece)) is not None:
                made.append(saved)
            elif configuration.unmerged is not None:
                raise NotMerged(f"PEFT's algorithm {configuration.unmerged:.40} is not merged")
            else:
                left.append(Unmatched(container.name, name, "a tensor that belongs to no adapter's module"))
        except NotMerged as error:
            refused.append(Unmatched(container.name, name, str(error)))
    for module in found:
        try:
            alpha = _alpha(module, state_dict, number, configuration)
            made += _parts(module, extra.get(module.name, {}), piece, alpha, configuration)
        except NotMerged as error:
            refused.append(Unmatched(container.name, module.name, str(error)))
    notes = tuple(_notes(state_dict.metadata, made, state_dict))
    if configuration.used:
        told = ", ".join(f"{alpha:g}" for alpha in sorted(configuration.used))
        notes += (f"its alphas are those of {configuration.where}: {told:.100}",)
    return Adapter(tuple(made), tuple(refused), tuple(left), notes)


class _Beginnings:
    """Beginnings of names, of which there may be many."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._sorted: list[str] = []
        for text in sorted(texts):
            if not (self._sorted and text.startswith(self._sorted[-1])):
                self._sorted.append(text)

    def begin(self, name: str) -> bool:
        """Whether one of them begins *name*: the last that is not behind it in their order is the only one that can."""
        place = bisect_right(self._sorted, name)
        return place > 0 and name.startswith(self._sorted[place - 1])


def _notes(metadata: Mapping[str, str], modules: Iterable[AdapterModule], names: Iterable[str]) -> Iterator[str]:
    """What is left out of the tensors called *names* by design, and what its trainer did otherwise than its file says.

    sd-scripts (``networks/lora_flux.py``, ``lora_sd3.py``) with ``split_qkv`` trains a LoRA for each part of a fused
    layer, with ``alpha / rank``, and writes them as one of three or four times the rank, and with the same alpha.
    """
    if bundled := {name.split(".")[1] for name in names if name.startswith(_BUNDLED)}:
        told = ", ".join(sorted(bundled))
        yield f"it brings embeddings along, which no model can take in and are left out: {told:.200}"
    if _SPLIT.search(metadata.get("ss_network_args", "")) and any(
        module.algorithm == "lora" and module.alpha is not None and _FUSED.search(module.paths[-1])
        for module in modules
    ):
        yield (
            "it was trained with split_qkv, and its file has the alpha of a part for the whole of each fused layer: "
            "these change by a third or a quarter of what was trained, as in every program that reads the file"
        )


def _parts(
    module: Module,
    extra: Mapping[str, TensorInfo],
    piece: Callable[[TensorInfo, str], Piece],
    alpha: float | None,
    configuration: Configuration,
) -> Iterator[AdapterModule]:
    """What *module* does, a change of the weight and one of the bias at most."""
    paths, foreign = _paths(module)
    factor = _factor(module, alpha, configuration)
    if _has_several(module, extra):
        raise NotMerged("it has several tensors in one role, of several adapters or of parts")
    check_merged(module)
    if alpha is not None and not math.isfinite(alpha):
        if _is_scaled(module):
            raise NotMerged("its alpha is no finite number")
        alpha = None

    def change(
        kind: Kind,
        algorithm: str,
        tensors: Mapping[str, TensorInfo],
        factor: float = 1.0,
        settings: Mapping[str, float] | None = None,
        *,
        optional: bool = False,
    ) -> AdapterModule:
        scale = module.tensors.get(("dora", "scale")) if kind == "weight" else None
        return AdapterModule(
            module.name,
            component_of(module.prefix),
            paths,
            kind,
            algorithm,
            {role: piece(tensor, role) for role, tensor in tensors.items()},
            alpha,
            piece(scale, "scale") if scale is not None else None,
            any(leaf.startswith("lora_magnitude_vector") for leaf in module.leaves),
            factor,
            settings or {},
            optional,
            foreign,
        )

    groups: dict[str, dict[str, TensorInfo]] = {}
    for (algorithm, role), tensor in module.tensors.items():
        groups.setdefault(algorithm, {})[role] = tensor
    lora_bias = groups.get("lora", {}).pop("bias", None)
    full = groups.pop("full", {})
    norm = groups.pop("norm", {})
    beside, dora = groups.pop("", {}), groups.pop("dora", {})
    weights: dict[str, dict[str, TensorInfo]] = {name: roles for name, roles in groups.items() if roles}
    if "lora" in weights:
        weights["lora"] |= {role: tensor for role, tensor in extra.items() if role in _SPARSE}
    if "ia3" in weights and "weight" in extra:
        weights["ia3"]["weight"] = extra["weight"]
    if "blocks" in weights.get("oft", {}):
        weights["oft"] |= {role: tensor for role, tensor in extra.items() if role.startswith("blocks")}
        weights["oft"] |= {role: tensor for role, tensor in beside.items() if role == "rescale"}
    elif "oft" in weights:
        oft = weights.pop("oft")
        weights["old-peft-oft" if oft.keys() == {"square"} else "peft-oft"] = oft
    factors = weights.get("ia3", {}).pop("l", None)
    if factors is not None:
        on_input = _on_input(module, factors, configuration)
        weights["ia3"] = {"inputs" if on_input else "outputs": factors}
    if "diff" in full:
        weights["full"] = {"diff": full["diff"]}
    if "w" in norm:
        weights["full"] = {"diff": norm["w"]}
    if "set" in full:
        weights["set"] = {"set": full["set"]}
    if len(weights) > 1:
        raise NotMerged(f"it has tensors of several algorithms: {', '.join(sorted(weights))}")
    if dora and not weights:
        raise NotMerged("it has magnitudes (DoRA) and no change of direction")
    for algorithm, tensors in weights.items():
        settings = None
        if algorithm in ("peft-oft", "old-peft-oft"):
            settings = configuration.rotation(series="triangles" in tensors)
        elif algorithm == "hra":
            settings = configuration.reflection()
        yield change("weight", algorithm, tensors, factor, settings)
        if "outputs" in tensors:
            yield change("bias", algorithm, tensors, optional=True)
    biases = [tensor for tensor in (full.get("diff_b"), norm.get("b")) if tensor is not None]
    for tensor in biases:
        yield change("bias", "full", {"diff": tensor})
    if lora_bias is not None:
        rank = module.rank
        scale = 1.0 if alpha is None or not rank else alpha / rank
        yield change("bias", "full", {"diff": lora_bias}, scale)


def _on_input(module: Module, factors: TensorInfo, configuration: Configuration) -> bool:
    """Whether PEFT's *factors* of an (IA)^3 are for the inputs: a matrix's are a row then, and a column else."""
    if len(factors.shape) == 2 and factors.numel > 1:
        return factors.shape[0] == 1
    return configuration.is_feedforward(module.name.removeprefix(PEFT_ROOT), component_of(module.prefix))


def _is_scaled(module: Module) -> bool:
    """Whether an alpha means something to *module*: to a LoKr of two full factors, or a difference, it does not."""
    return any(algorithm in _SCALED or (algorithm == "lokr" and role in _RANKED) for algorithm, role in module.tensors)


def _paths(module: Module) -> tuple[tuple[str, ...], str]:
    """What *module* may be called in its component: its whole name, and without the wrappers' before it; and the first
    word before the name of a layer that says that it is of a model which is no component of a base, as a ControlNet.
    """
    rest = rest_of(module.name)
    paths = [flat(rest)]
    word, dot, behind = rest.partition(".")
    while dot and word in _WRAPPERS:
        paths.append(flat(behind))
        word, dot, behind = behind.partition(".")
    foreign = "" if module.path in paths else paths[-1].removesuffix(module.path).strip("_")
    return tuple(dict.fromkeys(paths)), foreign


def _alpha(
    module: Module, state_dict: StateDict, number: Callable[[TensorInfo], float | None], configuration: Configuration
) -> float | None:
    """The module's alpha, wherever it stands, perhaps not finite; ``None`` where it has none."""
    tensor = module.tensors.get(("", "alpha"))
    if tensor is not None:
        return as_number(number(tensor))
    if (value := state_dict.scalars.get(f"{module.name}.alpha")) is not None:
        return as_number(value)
    rank = module.rank
    if rank is None or not any("lora_A" in leaf for leaf in module.leaves):
        return None
    return configuration.alpha(module.name.removeprefix(PEFT_ROOT), component_of(module.prefix), rank)


def _factor(module: Module, alpha: float | None, configuration: Configuration) -> float:
    """What PEFT's LoHa and LoKr, whose files have no alphas, are multiplied with; 1 for all others."""
    algorithm = next((each for each, _ in module.tensors if each in ("loha", "lokr")), None)
    if algorithm is None or alpha is not None:
        return 1.0
    return configuration.factor(algorithm, module.name.removeprefix(PEFT_ROOT), component_of(module.prefix))


def _extra(state_dict: StateDict, found: tuple[Module, ...], taken: set[str]) -> dict[str, dict[str, TensorInfo]]:
    """By module, tensors of it that no table of leaves has: the sparse ones of old LyCORIS, (IA)^3's weights, and the
    blocks of an OFT that has several, for runs of outputs one after the other."""
    algorithms = {module.name: {algorithm for algorithm, _ in module.tensors} for module in found}
    extra: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in state_dict.items():
        stem, _, leaf = name.rpartition(".")
        if name in taken or stem not in algorithms:
            continue
        if leaf in _SPARSE or (leaf == "weight" and "ia3" in algorithms[stem]):
            extra.setdefault(stem, {})[leaf] = tensor
    for module in found:
        parts = [state_dict.get(f"{module.name}.oft_blocks.{n}") for n in range(module.leaves.count("oft_blocks.*"))]
        if len(parts) > 1:
            roles = ("blocks", *(f"blocks.{n}" for n in range(1, len(parts))))
            extra[module.name] = {role: part for role, part in zip(roles, parts, strict=True) if part is not None}
    return extra


def _has_several(module: Module, extra: Mapping[str, TensorInfo]) -> bool:
    """Whether tensors of *module* are the same to it, of which only one would be taken."""
    return len(module.leaves) > len(module.tensors) + sum(role.startswith("blocks.") for role in extra)
