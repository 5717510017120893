"""Which architectures the modules of an adapter leave open.

An architecture has a module when one of its tables has a layer of that path and those sizes. The ones that have the
most modules remain; where these are not all, or where sizes had to be left out of account, the evidence says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, TypeVar

from modelhub.identify.base import RARER, Evidence
from modelhub.identify.layers import Place, fits, layers
from modelhub.identify.modules import Form, ModulePrefix
from modelhub.identify.registry import in_order

T = TypeVar("T")

_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3")
_NAME = "name"
_FEW = 16
"""Modules below which one that a rarer model has too may well be that one's."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What remains: architectures in their usual order, the variant if only one does, and what led there.

    It is not ``certain`` where most modules have sizes that no architecture gives to layers of their names: they may
    be another model's, that nobody here knows.
    """

    architectures: tuple[str, ...] = ()
    variant: str | None = None
    evidence: tuple[Evidence, ...] = ()
    certain: bool = True

    @property
    def architecture(self) -> str | None:
        """The only one, where it is certain."""
        return self.architectures[0] if len(self.architectures) == 1 and self.certain else None


class Fit(NamedTuple):
    """The architectures and tables that have a module, and whether its ``shape`` told or only its ``key``.

    Only its name (``by`` is ``name``) told where its sizes are those of no layer that is called so.
    """

    architectures: frozenset[str]
    tables: frozenset[int]
    by: str


class Told(NamedTuple):
    """What name and shapes tell of one module; ``fit`` is ``None`` for one that no architecture has, and ``is_text`` is
    set for a text encoder's."""

    name: str
    path: str
    prefix: ModulePrefix | None
    form: Form
    fit: Fit | None
    is_text: bool


@dataclass(slots=True)
class Group:
    """The modules that leave the same architectures open: how many, the first of them, by what."""

    architectures: frozenset[str]
    first: Told
    by: str
    count: int = 0


def told(name: str, path: str, prefix: ModulePrefix | None, form: Form) -> Told:
    """What is told of the module *name* by its *path* behind the *prefix* and by its *form*."""
    is_text = prefix is not None and prefix.component in _TEXT
    return Told(name, path, prefix, form, _fit(path, form.outputs, form.inputs, form.is_convolution), is_text)


def narrowed(modules: Sequence[Told]) -> Narrowed:
    """The architectures that have all of *modules*, else those that have most of them."""
    groups: dict[tuple[frozenset[str], bool], Group] = {}
    tables: Counter[int] = Counter()
    sorts = [(module.fit, module.is_text) for module in modules]  # a few dozens among hundreds
    first = dict(zip(reversed(sorts), reversed(modules), strict=True))
    for (fit, is_text), count in Counter(sorts).items():
        if fit is None:
            continue
        same = fit.architectures, fit.by == _NAME
        group = groups.get(same)
        if group is None:
            group = groups[same] = Group(fit.architectures, first[fit, is_text], fit.by)
        group.count += count
        if not is_text:
            tables.update(dict.fromkeys(fit.tables, count))
    found = [*groups.values(), *_prefixes(modules)]
    if not found:
        return Narrowed()
    best = _most(found)
    paths = {module.path for module in modules if module.fit is not None and not module.is_text}
    possible = _agreed(found, best - rare() or best)
    if len(possible) > 1 or len(paths) < _FEW:
        possible = _agreed(found, best - (rare() - alike()) or best)
    odd = sum(group.count for group in groups.values() if group.by == _NAME)
    certain = 2 * odd <= sum(group.count for group in groups.values())
    evidence = _steps(found, possible)
    if len(best) > 1 and certain and (whole := _whole(paths, possible, best)):
        stated = " | ".join(in_order(whole))
        detail = f"its {len(paths)} modules are all that this architecture has of their kinds"
        evidence.append(Evidence("architecture", stated, "structure", detail, "medium"))
        possible = whole
    if rarer := {name for name in (best & rare()) - possible if all(name in group.architectures for group in found)}:
        evidence.append(Evidence("architecture", " | ".join(in_order(rarer)), "structure", RARER, "low"))
    variant = _variant(tables, possible) if len(possible) == 1 and certain else None
    if variant:
        detail = "only a model of this size has all of these modules"
        evidence.append(Evidence("variant", variant, "shape", detail))
    return Narrowed(in_order(possible), variant, tuple(evidence), certain)


@lru_cache(maxsize=1 << 16)
def _fit(path: str, outputs: int | None, inputs: int | None, convolution: bool) -> Fit | None:
    """Where a module fits, by what: its sizes where they agree anywhere, else its inputs alone, else its name alone."""
    known = layers().places(path)
    if not known:
        return None
    fitting: tuple[Place, ...] = known
    by = "key"
    for width, of, shaped in _asked(outputs, inputs, convolution):
        if found := tuple(place for place in known if fits(place, width, of, shaped)):
            fitting = found
            told_by_shape = width is not None or of is not None
            by = "shape" if told_by_shape and len(found) < len(known) else "key"
            by = _NAME if not told_by_shape and (inputs or outputs) is not None else by
            break
    tables = frozenset(place.table for place in fitting)
    names = frozenset(name for each in tables for name in layers().tables[each].architectures)
    return Fit(_same(names), _same(tables), by)


def _asked(outputs: int | None, inputs: int | None, convolution: bool) -> Iterator[tuple[int | None, int | None, bool]]:
    """The sizes to ask for, the surest first; a matrix's factors may be kept as those of a convolution of one pixel."""
    for shaped in (True, False) if convolution else (False,):
        yield outputs, inputs, shaped
    if inputs is not None:
        yield None, inputs, convolution
    yield None, None, convolution


@lru_cache(maxsize=1 << 12)
def _same(members: frozenset[T]) -> frozenset[T]:
    """One set for all of the same *members*: what is the same object is equal at a glance."""
    return members


def _prefixes(modules: Iterable[Told]) -> Iterable[Group]:
    """What the beginnings of names say, each once."""
    seen: dict[str, Told] = {}
    for module in modules:
        if module.prefix is not None and module.prefix.candidates:
            seen.setdefault(module.prefix.begins, module)
    return [Group(frozenset(each.prefix.candidates), each, "key") for each in seen.values() if each.prefix is not None]


def _most(groups: list[Group]) -> frozenset[str]:
    """The architectures that have all modules, else those that have most."""
    totals: Counter[str] = Counter()
    for group in groups:
        totals.update(dict.fromkeys(group.architectures, group.count))
    highest = max(totals.values())
    return frozenset(name for name, total in totals.items() if total == highest)


def _agreed(groups: list[Group], best: frozenset[str]) -> frozenset[str]:
    """Those of *best* that agree with the first modules, where they have equally many, but not all."""
    for group in groups:
        best = best & group.architectures or best
    return best


def _steps(groups: list[Group], possible: frozenset[str]) -> list[Evidence]:
    """The modules that narrowed the architectures down, in order, then those that fit none that remains."""
    steps: list[Evidence] = []
    against: list[Evidence] = []
    open_: frozenset[str] | None = None
    for group in groups:
        shown = group.architectures - (rare() - possible) or group.architectures
        stated = " | ".join(in_order(shown))
        if not group.architectures & possible:
            detail = f"{_said(group)}, against the {'others' if steps else 'rest'}"
            against.append(Evidence("architecture", stated, _by(group), detail, "low"))
        elif open_ is None or not open_ <= group.architectures:
            open_ = group.architectures if open_ is None else open_ & group.architectures
            confidence = "low" if group.by == _NAME else "high"
            steps.append(Evidence("architecture", stated, _by(group), _said(group), confidence))
    return [*steps, *against]


def _by(group: Group) -> str:
    return "key" if group.by == _NAME else group.by


def _said(group: Group) -> str:
    module, form = group.first, group.first.form
    if group.count == 0 and module.prefix is not None:
        return f"there is {module.name}: {module.prefix.because}"
    sizes = [f"{verb} {size}" for verb, size in (("takes", form.inputs), ("gives", form.outputs)) if size is not None]
    if group.by == "shape" and sizes:
        return f"{module.name} {' and '.join(sizes)}, as a layer there does"
    if group.by == _NAME:
        return f"there is {module.name}, a layer's name there, but it {' and '.join(sizes)}, as none of them does"
    return f"there is {module.name}, a layer's name there"


def _whole(paths: set[str], possible: frozenset[str], best: frozenset[str]) -> frozenset[str]:
    """Those of *possible* of which the modules are all layers of their kinds, where that tells some apart.

    Where they are that of no table but rare ones, it is those of *best*, rare ones too.
    """
    tables = [layers().tables[number] for number in layers().whole(paths)]
    common = frozenset(name for table in tables if not table.rare for name in table.architectures)
    left = common & possible or best.intersection(name for table in tables for name in table.architectures)
    return left if left != possible else frozenset()


def _variant(counted: Counter[int], possible: frozenset[str]) -> str | None:
    """The size of the one architecture, where only tables of one size have the most modules."""
    tables = layers().tables
    own = {number: count for number, count in counted.items() if possible & set(tables[number].architectures)}
    most = max(own.values(), default=0)
    variants = {tables[number].variant for number, count in own.items() if count == most}
    others = {tables[number].variant for number in range(len(tables)) if possible & set(tables[number].architectures)}
    return variants.pop() if len(variants) == 1 and len(others) > 1 else None


@cache
def rare() -> frozenset[str]:
    """Architectures all of whose tables are rare."""
    common = {name for table in layers().tables if not table.rare for name in table.architectures}
    return frozenset(name for table in layers().tables for name in table.architectures) - common


@cache
def alike() -> frozenset[str]:
    """Rare architectures that are named beside the common ones where these are not certain."""
    return rare() & {name for table in layers().tables if table.alike for name in table.architectures}
