"""Transformers under the names of every layout (``transformers.toml``): which rows of a file's tensors a layer is that
another layout calls otherwise, or has in one with others.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from modelhub.convert.layouts import Shapes
from modelhub.merge.base import Kind

_FILE = os.path.join(os.path.dirname(__file__), "transformers.toml")
_ENDINGS = (".weight", ".scale", ".bias", "_weight", "_bias")
"""How the tensors of a layer end: norms of FLUX have scales, and PyTorch's own attention an ``in_proj_weight``."""

_WEIGHTS = (".weight", ".scale", "_weight")
AUTHORS, DIFFUSERS = 0, 1
"""Whose names are first in the table, and second."""

_NUMBER = re.compile(r"(?<=\.)\d{1,4}(?=\.)|(?<=\.)\d{1,4}$")


class Rows(NamedTuple):
    """Rows of the layer *stem*, of which the first is row *at* of another layer."""

    stem: str
    first: int
    end: int
    at: int


class Placed(NamedTuple):
    """A layer that the file has under other names: its *name*, whose that is (:data:`AUTHORS`, :data:`DIFFUSERS`, or a
    larger number), the *rows* of the file's layers that it is, and what the Open Model Initiative calls it, a part of a
    whole, by its number; else empty."""

    name: str
    layout: int
    rows: tuple[Rows, ...]
    numbered: str


class Form(NamedTuple):
    """A layer's names in one layout, how many rows each has in units of the layer's inputs (0: a share of those that
    are left), and when the halves stand the other way round: ``~`` those of a modulation, ``~~`` those of any."""

    names: tuple[str, ...]
    units: tuple[int, ...]
    swapped: str


class Place(NamedTuple):
    """Where a name stands in a family: the layer's number, and those of the form and of the name in it."""

    layer: int
    form: int
    part: int


@dataclass(frozen=True, slots=True)
class Family:
    """The layers of one sort of transformer, each in its forms. Names have ``#`` for a block's number."""

    tells: tuple[tuple[str, ...], ...]
    layers: tuple[tuple[Form, ...], ...]
    places: Mapping[str, tuple[Place, ...]]


def placed(shapes: Shapes) -> Iterator[Placed]:
    """The layers of the transformer whose tensors have these names, without prefix, and *shapes*, under all the names
    that it does not have itself; none where its family has but one layout."""
    family = _family_of(shapes)
    if family is None:
        return
    heights = {stem: shapes[stem + ending] for stem, ending in _stems(shapes) if ending in _WEIGHTS}
    for stem in heights:
        for pattern, numbers in _patterns(stem):
            for place in family.places.get(pattern, ()):
                if place.part == 0:
                    yield from _of_layer(family.layers[place.layer], place.form, numbers, heights)


def authors_name(stem: str, shapes: Shapes) -> str:
    """What its authors call the layer that diffusers calls *stem*, in the transformer whose tensors have these names;
    *stem* where they call it the same."""
    family = _family_of(shapes)
    if family is None:
        return stem
    for pattern, numbers in _patterns(stem):
        for place in family.places.get(pattern, ()):
            if place.form == DIFFUSERS:
                return _numbered(family.layers[place.layer][AUTHORS].names[0], numbers)
    return stem


def is_transformer(shapes: Shapes) -> bool:
    """Whether the tensors of these names are a transformer's of a family that is known."""
    return _family_of(shapes) is not None


def tensors_of(stem: str, shapes: Mapping[str, object]) -> Iterator[tuple[str, Kind]]:
    """The names of the tensors that the layer *stem* has among *shapes*, each with what it would be called elsewhere:
    ``weight`` or ``bias``."""
    return ((stem + each, "bias" if each.endswith("bias") else "weight") for each in _ENDINGS if stem + each in shapes)


def _of_layer(
    forms: Sequence[Form], own: int, numbers: Sequence[str], heights: Mapping[str, tuple[int, ...]]
) -> Iterator[Placed]:
    stems = [_numbered(name, numbers) for name in forms[own].names]
    there = [heights[stem] for stem in stems if stem in heights]
    if len(there) < len(stems) or not all(there):
        return
    sizes = [shape[0] for shape in there]
    total, inputs = sum(sizes), there[0][1] if len(there[0]) > 1 else 0
    native = _numbered(forms[AUTHORS].names[0], numbers)
    for number, form in enumerate(forms):
        if number == own:
            made: Sequence[int] = sizes
        else:
            made = sizes if len(form.names) == len(sizes) else _shares(form.units, total, inputs)
        if not made:
            continue
        swapped = _is_swapped(form, total, inputs) != _is_swapped(forms[own], total, inputs)
        bounds = list(pairwise(accumulate(made, initial=0)))
        for part, (name, (first, end)) in enumerate(zip(form.names, bounds, strict=True)):
            rows = tuple(_cut(stems, sizes, first, end)) if not swapped else _halves(stems[0], total)
            numbered = f"{native}.{part}" if number == DIFFUSERS and len(form.names) > 1 else ""
            if rows and (number != own or numbered):  # a weight without elements has none
                yield Placed(_numbered(name, numbers), number, rows, numbered)


def _shares(units: Sequence[int], total: int, inputs: int) -> Sequence[int]:
    """How many of *total* rows each name of a form has; none where they cannot be shared out so."""
    given = [unit * inputs for unit in units]
    left, sharing = total - sum(given), units.count(0)
    if not sharing:
        return given if left == 0 and inputs else ()
    if left < sharing or left % sharing or (any(units) and not inputs):
        return ()
    return [rows or left // sharing for rows in given]


def _cut(stems: Sequence[str], sizes: Sequence[int], first: int, end: int) -> Iterator[Rows]:
    """The rows *first* to *end* of the layers *stems* of these *sizes*, one after the other."""
    for stem, (begin, stop) in zip(stems, pairwise(accumulate(sizes, initial=0)), strict=True):
        low, high = max(first, begin), min(end, stop)
        if low < high:
            yield Rows(stem, low - begin, high - begin, low - first)


def _halves(stem: str, total: int) -> tuple[Rows, ...]:
    half = total // 2
    return Rows(stem, half, total, 0), Rows(stem, 0, half, total - half)


def _is_swapped(form: Form, total: int, inputs: int) -> bool:
    return form.swapped == "~~" or (form.swapped == "~" and total == 2 * inputs)


def _stems(shapes: Shapes) -> Iterator[tuple[str, str]]:
    for name in shapes:
        ending = next((each for each in _ENDINGS if name.endswith(each)), "")
        if ending:
            yield name[: -len(ending)], ending


def _patterns(stem: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """*stem* itself, and with its first number as ``#``, and its first two; each with those numbers."""
    yield stem, ()
    found = [(match.start(), match.end()) for match in _NUMBER.finditer(stem)][:2]
    for count in range(1, len(found) + 1):
        pattern, behind = "", 0
        for first, end in found[:count]:
            pattern += f"{stem[behind:first]}#"
            behind = end
        yield pattern + stem[behind:], tuple(stem[first:end] for first, end in found[:count])


def _numbered(pattern: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        pattern = pattern.replace("#", number, 1)
    return pattern


def _family_of(shapes: Shapes) -> Family | None:
    def has(stem: str) -> bool:
        return any(stem + ending in shapes for ending in _WEIGHTS)

    return next((each for each in _families() if any(all(map(has, tell)) for tell in each.tells)), None)


@cache
def _families() -> tuple[Family, ...]:
    with open(_FILE, "rb") as file:
        return tuple(map(_family, tomllib.load(file)["family"]))


def _family(table: Mapping[str, Any]) -> Family:
    layers = tuple(
        tuple(_forms(line, of)) for part in table["part"] for of in part.get("of", [""])
        for line in part["layers"].splitlines()
    )  # fmt: skip
    places: dict[str, tuple[Place, ...]] = {}
    for number, forms in enumerate(layers):
        for which, form in enumerate(forms):
            for part, name in enumerate(form.names):
                places[name] = (*places.get(name, ()), Place(number, which, part))
    return Family(tuple(tuple(each.split()) for each in table["tells"]), layers, places)


def _forms(line: str, of: str) -> Iterator[Form]:
    """The forms of a layer that a *line* of the table says, whose names begin as *of* says."""
    beginnings = [each.strip() for each in of.split("|")]
    for number, text in enumerate(line.split("|")):
        begins = beginnings[number] if number < len(beginnings) else beginnings[0]
        swapped, names, units = _words(text.split())
        yield Form(tuple(f"{begins}{name}" for name in names), tuple(units), swapped)


def _words(words: Iterable[str]) -> tuple[str, list[str], list[int]]:
    swapped, names, units = "", [], []
    for word in words:
        name, _, unit = word.partition(":")
        bare = name.lstrip("~")
        swapped = name[: len(name) - len(bare)] or swapped
        names.append(bare)
        units.append(int(unit or 0))
    return swapped, names, units
