"""Values as nested lists that two processes can compare: what was unpickled with stand-ins, and what was traced.

Lists, dicts, sets, tuples and made objects are numbered at their first appearance, so sharing counts too. A set is its
sorted plain members; keyword arguments are left out, since an object may change after it was passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Canonical = list[Any]
_DEPTH = 60


@dataclass(frozen=True, slots=True)
class Imported:
    """An import, by the names that the file spells."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Object:
    """A made object: its callee, the arguments, and what was then done to it."""

    callee: Any
    args: Any
    states: Iterable[Any]
    pairs: Iterable[tuple[Any, Any]]
    items: Iterable[Any]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A dict, as pairs in the order in which they were set, equal keys included."""

    pairs: Iterable[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Collection:
    """A set."""

    items: Iterable[Any]
    frozen: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the loader gives for a persistent id."""

    pid: Any


Look = Callable[[Any], Any]
"""From a value to one of the classes above, or to the value itself if it is a plain one, a tuple or a list."""


def canonical(value: Any, look: Look) -> Canonical:
    """*value* as nested lists of texts and numbers."""
    return _Canonical(look).of(value, 0)


class _Canonical:
    def __init__(self, look: Look) -> None:
        self.look = look
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []

    def of(self, value: Any, depth: int) -> Canonical:
        if depth > _DEPTH:
            return ["deep"]
        seen = self.look(value)
        plain = _plain(seen)
        if plain is not None:
            return plain
        if type(seen) is Imported:
            return ["import", seen.module, seen.name]
        if type(seen) is Collection and seen.frozen:
            return ["frozenset", self._members(seen.items)]
        number = self.numbers.get(id(value))
        if number is not None:
            return ["again", number]
        self.numbers[id(value)] = number = len(self.numbers)
        self.alive.append(value)
        below = depth + 1
        if type(seen) in (tuple, list):
            return [type(seen).__name__, number, [self.of(item, below) for item in seen]]
        if type(seen) is Mapping:
            return ["dict", number, self._pairs(self._last(seen.pairs), below)]
        if type(seen) is Collection:
            return ["set", number, self._members(seen.items)]
        if type(seen) is Loaded:
            return ["loaded", number, self.of(seen.pid, below)]
        if type(seen) is Object:
            args = [self.of(arg, below) for arg in seen.args] if type(seen.args) is tuple else ["no tuple"]
            states = [self.of(state, below) for state in seen.states]
            items = [self.of(item, below) for item in seen.items]
            return ["object", number, self.of(seen.callee, below), args, states, self._pairs(seen.pairs, below), items]
        return ["other", type(seen).__name__]

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> list[Canonical]:
        return [[self.of(key, depth), self.of(value, depth)] for key, value in pairs]

    def _last(self, pairs: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
        """As a dict keeps them: the first of equal keys with the last of their values."""
        kept: dict[Any, tuple[Any, Any]] = {}
        for key, value in pairs:
            hashed = self._hashable(key)
            kept[hashed] = (kept[hashed][0] if hashed in kept else key, value)
        return kept.values()

    def _hashable(self, value: Any) -> Any:
        seen = self.look(value)
        if type(seen) is tuple:
            return tuple(map(self._hashable, seen))
        if type(seen) is Imported or type(seen) in (type(None), bool, int, float, str, bytes):
            return seen
        return (id(value), "identity")

    def _members(self, items: Iterable[Any]) -> list[str]:
        members = {self._hashable(item): self.look(item) for item in items}
        if any(_plain(member) in (None, ["float", "nan"]) for member in members.values()):
            return ["not plain"]
        return sorted(repr(_plain(hashed)) for hashed in members)


def _plain(value: Any) -> Canonical | None:
    match value:
        case None:
            return ["none"]
        case bool():
            return ["bool", int(value)]
        case int():
            return ["int", hex(value)]
        case float():
            return ["float", repr(value)]
        case str():
            return ["str", value]
        case bytes():
            return ["bytes", value.decode("latin-1")]
        case ():
            return ["tuple", -1, []]
    return None
