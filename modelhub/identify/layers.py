"""The layers that each architecture has (``signatures/layers.json``), and which architectures a set of layers leaves.

The file has a table for each size and naming of each architecture: what it is ``of`` (a text encoder is of several),
its ``variant``, whether it is ``rare`` or ``alike``, its ``families`` of repeated blocks, and its ``layers``: the path
with ``#`` for each number, then ``[outputs, inputs, is a convolution, numbers ...]`` with the numbers as products of
ranges (``"0-18;2"``; inputs 0: the layer has none).
It is made from the models' own code by ``tests/identify/keylists/layers.py``.
"""

from __future__ import annotations

import itertools
import json
import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

_FILE = os.path.join(os.path.dirname(__file__), "signatures", "layers.json")
_NO_DIGITS = dict.fromkeys(map(ord, "0123456789"))

_WHOLE = 16
"""Layers, at least, of which it can be said that they are all of an architecture's and not some by chance."""


class Place(NamedTuple):
    """One layer of one table: the table's number, the layer's sizes, whether it is a convolution."""

    table: int
    outputs: int
    inputs: int
    convolution: bool


@dataclass(frozen=True, slots=True)
class Table:
    """What a table is of. A ``rare`` one counts only where no other has all of the layers; one that is ``alike`` too is
    named beside the others that have them where they are few, or leave more than one open."""

    architectures: tuple[str, ...]
    variant: str | None = None
    rare: bool = False
    alike: bool = False
    families: frozenset[str] = frozenset()


class Layers:
    """Every layer by its path; those of a path's pattern are listed when one of them is first asked for."""

    def __init__(self, tables: Iterable[dict[str, Any]]) -> None:
        self.tables: list[Table] = []
        self._rows: dict[str, list[tuple[int, str, list[Any]]]] = {}
        self._places: dict[str, dict[str, tuple[Place, ...]]] = {}
        self._counts: dict[str, dict[int, int]] = {}
        for number, each in enumerate(tables):
            families = frozenset(each.get("families", ()))
            rare, alike = each.get("rare", False), each.get("alike", False)
            self.tables.append(Table(tuple(each["of"]), each.get("variant"), rare, alike, families))
            for pattern, rows in each["layers"].items():
                bare = pattern.replace("#", "")
                self._rows.setdefault(bare, []).extend((number, pattern, row) for row in rows)

    def places(self, path: str) -> tuple[Place, ...]:
        """Where there is a layer of this *path*, whatever its sizes."""
        bare = path.translate(_NO_DIGITS)
        known = self._places.get(bare)
        if known is None:
            if bare not in self._rows:
                return ()
            known = self._places[bare] = self._listed(bare)
        return known.get(path, ())

    def whole(self, paths: set[str]) -> frozenset[int]:
        """The tables that have, of every kind of layer in *paths*, exactly those, and no family of blocks besides."""
        if len(paths) < _WHOLE:
            return frozenset()
        used: dict[str, int] = {}
        for path in paths:
            if self.places(path):
                bare = path.translate(_NO_DIGITS)
                used[bare] = used.get(bare, 0) + 1
        families = {bare.partition("blocks")[0] for bare in used}
        counts = [self._counts[bare] for bare in used]
        numbers = set.intersection(*(set(each) for each in counts)) if counts else set()
        return frozenset(
            number
            for number in numbers
            if all(self._counts[bare][number] == count for bare, count in used.items())
            and self.tables[number].families <= families
        )

    def _listed(self, bare: str) -> dict[str, tuple[Place, ...]]:
        found: dict[str, list[Place]] = {}
        counts: dict[int, set[str]] = {}
        for number, pattern, (outputs, inputs, convolution, *products) in self._rows.get(bare, ()):
            place = Place(number, outputs, inputs, bool(convolution))
            for path in _paths(pattern, products):
                found.setdefault(path, []).append(place)
                counts.setdefault(number, set()).add(path)
        self._counts[bare] = {number: len(paths) for number, paths in counts.items()}
        return {path: tuple(places) for path, places in found.items()}


def fits(place: Place, outputs: int | None, inputs: int | None, convolution: bool | None) -> bool:
    """Whether a layer of these sizes can be the one at *place*; what is ``None`` is not known."""
    if outputs is not None and outputs != place.outputs:
        return False
    if inputs is not None and place.inputs and inputs != place.inputs:
        return False
    return not (convolution and not place.convolution)


@cache
def layers() -> Layers:
    """The layers of every architecture, read once."""
    with open(_FILE, encoding="utf-8") as file:
        return Layers(json.load(file))


def _paths(pattern: str, products: Iterable[str]) -> Iterator[str]:
    parts = pattern.split("#")
    for product in products:
        axes = [_numbers(axis) for axis in product.split(";")] if product else []
        for numbers in itertools.product(*axes):
            yield "".join(itertools.chain.from_iterable(zip(parts, (*numbers, ""), strict=True)))


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for run in text.split(","):
        first, _, last = run.partition("-")
        found += map(str, range(int(first), int(last or first) + 1))
    return found
