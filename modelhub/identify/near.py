"""Why not: what came near to fitting a file, and the first thing that it lacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from modelhub.identify.adapter_names import modules_of
from modelhub.identify.base import Identity
from modelhub.identify.layers import fits, layers
from modelhub.identify.modules import Module
from modelhub.identify.names import Names
from modelhub.identify.narrowing import rare
from modelhub.identify.observation import Observation
from modelhub.identify.registry import FAMILIES, Family, ShapeRule, Signature, family

_MOST = 5


@dataclass(frozen=True, slots=True)
class NearMiss:
    """Something that the file is not: *held* of *conditions* hold, and *detail* says which was the first that does not.

    ``value`` is an architecture, with its variant and the component that it would be of.
    """

    value: str
    held: int
    conditions: int
    detail: str


def near_misses(observation: Observation, identity: Identity) -> tuple[NearMiss, ...]:
    """The nearest of what *observation* is not, nearest first; of a folder nothing, for its own words decide."""
    if observation.is_folder:
        return ()
    names = Names(observation.files[""][0])
    found = _adapters(names, identity) if identity.kind == "lora" else _structures(names, identity)
    best: dict[str, NearMiss] = {}
    for miss in sorted(found, key=lambda miss: (-miss.held / miss.conditions, -miss.held, miss.value)):
        best.setdefault(miss.value, miss)
    return tuple(best.values())[:_MOST]


def _structures(names: Names, identity: Identity) -> Iterator[NearMiss]:
    for name in FAMILIES:
        known = family(name)
        for root in names.roots(known.roots):
            for signature in (*known.signatures, *known.variants):
                miss = _miss(names, root, known, signature)
                if miss is not None and not _is_answer(signature, identity):
                    yield miss


def _is_answer(signature: Signature, identity: Identity) -> bool:
    """Whether *signature* would only say what *identity* says already."""
    if signature.of and identity.architecture not in signature.of:
        return True  # a variant of something else
    same = signature.architecture in {None, identity.architecture}
    return same and signature.variant == identity.variant and not signature.candidates


def _miss(names: Names, root: str, known: Family, signature: Signature) -> NearMiss | None:
    """How far *signature* fits below *root*; ``None`` when it fits, or when nothing of it does."""
    checks = list(_checks(names, root, signature))
    held = [told for told, fault in checks if fault is None]
    faults = [fault for _, fault in checks if fault is not None]
    if not faults or not any(held):
        return None
    name = " | ".join((signature.architecture,) if signature.architecture else signature.candidates or signature.of)
    words = [word for word in (name, signature.variant, signature.component or known.component) if word]
    return NearMiss(", ".join(words), len(held), len(checks), faults[0])


def _checks(names: Names, root: str, signature: Signature) -> Iterator[tuple[bool, str | None]]:
    """Each condition: whether it tells anything when it holds, and what is wrong when it does not."""
    for alternatives in signature.has:
        found = any(names.find(root, each) for each in alternatives)
        yield True, None if found else f"there is no {' or '.join(_full(root, each) for each in alternatives[:3])}"
    for rule in signature.shape:
        name = next((name for each in rule.names if (name := names.find(root, each))), None)
        if name is None or name not in names.tensors:
            yield True, f"there is no {' or '.join(_full(root, each) for each in rule.names[:3])}"
        elif rule.fits(names.shape(name)):
            yield True, None
        else:
            yield True, f"{name} is {list(names.shape(name))}, not {_sizes(rule)}"
    for each in signature.lacks:
        name = names.find(root, each)
        yield False, f"there is {name}{'*' if name.endswith('.') else ''}" if name else None


def _full(root: str, entry: str) -> str:
    name = entry[1:] if entry.startswith("/") else root + entry
    return name + "*" if name.endswith(".") else name


def _sizes(rule: ShapeRule) -> str:
    words = [
        "*" if size is None else " or ".join(map(str, sorted(size))) if isinstance(size, frozenset) else str(size)
        for size in rule.sizes
    ]
    return f"[{', '.join([*words, '...'] if rule.open_ended else words)}]"


def _adapters(names: Names, identity: Identity) -> Iterator[NearMiss]:
    """Architectures that have some of the modules, and the first module that they have not."""
    modules = [module for module in modules_of(names) if layers().places(module.path)]
    answers = {identity.architecture, *identity.candidates}
    had: Counter[str] = Counter()
    lacking: dict[str, Module] = {}
    everyone = {name for table in layers().tables for name in table.architectures} - answers
    for module in modules:
        having = {name for number in _tables(module) for name in layers().tables[number].architectures}
        had.update(having & everyone)
        for name in everyone - having:
            lacking.setdefault(name, module)
    for name, count in had.items():
        if name in lacking:
            yield NearMiss(name, count, len(modules), _why_not(lacking[name], name))
        else:
            why = "a rarer model of the same layers" if name in rare() else "it has these layers too, the rest decided"
            yield NearMiss(name, count, len(modules), why)


def _tables(module: Module) -> set[int]:
    sizes = module.outputs, module.inputs, module.is_convolution
    return {place.table for place in layers().places(module.path) if fits(place, *sizes)}


def _why_not(module: Module, architecture: str) -> str:
    there = [
        place for place in layers().places(module.path) if architecture in layers().tables[place.table].architectures
    ]
    if not there:
        return f"it has no layer {module.name}"
    sizes = " or ".join(sorted({f"{place.inputs} to {place.outputs}" for place in there}))
    return f"{module.name} is {module.inputs or '?'} to {module.outputs or '?'} wide, there it is {sizes}"
