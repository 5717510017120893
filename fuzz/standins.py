"""What the sandboxed unpicklers see instead of what a program names: classes that write down what is done to them."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import pathlib
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fuzz.canonical import Collection, Imported, Loaded, Mapping, Object

Effect = list[str]
Plain = TypeVar("Plain")
_MOST = 2000

EXTENSIONS = {1: ("os", "system"), 2: ("collections", "OrderedDict"), 300: ("some", "thing"), 70_000: ("a.b", "c")}
"""Extension codes that are registered in the sandbox."""


class Journal:
    """What a program did so far, in order: ``[what, ...]``, at most some thousand entries."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []

    def note(self, *effect: str) -> None:
        if len(self.effects) < _MOST:
            self.effects.append(list(effect))


journal = Journal()


class Kind(type):
    """The class of stand-in classes: it also notes what is done to a class itself, instead of to an instance."""

    named: tuple[str, str]

    @property
    def __setstate__(cls) -> Callable[..., None]:  # noqa: PLE0302 - a property: an instance has another
        return cls._noting("state", "class")

    @property
    def append(cls) -> Callable[..., None]:
        return cls._noting("items", "class")

    @property
    def extend(cls) -> Callable[..., None]:
        return cls._noting("items", "class")

    @property
    def add(cls) -> Callable[..., None]:
        return cls._noting("items", "class")

    def __setitem__(cls, key: Any, value: Any) -> None:
        journal.note("items", *cls.named, "class")

    def __iter__(cls) -> Iterator[Any]:
        journal.note("special", *cls.named, "class")
        return iter(())

    def _noting(cls, what: str, on: str) -> Callable[..., None]:
        return lambda *args: journal.note(what, *cls.named, on)


class StandIn(metaclass=Kind):
    """An object of a class that stands for what the file names; it keeps what a trace would say of it."""

    named = ("", "")
    callee: Any = None
    made_with: tuple[Any, ...] = ()
    states: tuple[Any, ...] = ()
    set_pairs: tuple[tuple[Any, Any], ...] = ()
    added: tuple[Any, ...] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        journal.note("call", *cls.named)
        made = object.__new__(cls)
        made.made_with = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        journal.note("state", *self.named, "instance")
        self.states += (state,)

    def __setitem__(self, key: Any, value: Any) -> None:
        journal.note("pairs", *self.named, "instance")
        self.set_pairs += ((key, value),)

    def extend(self, items: list[Any]) -> None:
        journal.note("items", *self.named, "instance")
        self.added += tuple(items)

    def append(self, item: Any) -> None:
        self.extend([item])

    def add(self, item: Any) -> None:
        self.extend([item])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        journal.note("call of a result", *self.named)
        made = object.__new__(type(self))
        made.callee, made.made_with = self, args
        return made

    def __iter__(self) -> Iterator[Any]:
        return self._special(iter(()))

    def keys(self) -> Iterator[Any]:
        return self._special(iter(()))

    def items(self) -> Iterator[Any]:
        return self._special(iter(()))

    def __getitem__(self, key: Any) -> Any:
        return self._special(None)

    def __len__(self) -> int:
        return self._special(0)

    def __index__(self) -> int:
        return self._special(0)

    def __float__(self) -> float:
        return self._special(0.0)

    def __str__(self) -> str:
        return self._special("")

    def __bytes__(self) -> bytes:
        return self._special(b"")

    def __fspath__(self) -> str:
        return self._special("")

    def _special(self, value: Plain) -> Plain:
        journal.note("special", *self.named, "instance")
        return value


class Given:
    """What the loader gives for a persistent id."""

    def __init__(self, pid: Any) -> None:
        self.pid = pid


class World:
    """What names are found in: stand-ins for all, or the harmless classes of Python's own where *real*."""

    def __init__(self, real: bool) -> None:
        self._real = _REAL if real else {}
        self._found: dict[tuple[str, str], Any] = {}

    def find(self, module: str, name: str) -> Any:
        """What ``module.name`` is here."""
        journal.note("import", module, name)
        named = module, name
        if named in self._real:
            return self._real[named]
        if len(self._found) > 2000:
            self._found.clear()
        if named not in self._found:
            self._found[named] = Kind("StandIn", (StandIn,), {"named": named})
        return self._found[named]


def _noting(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        journal.note("call", module, name)
        return function(*args, **kwargs)

    return noted


def _real() -> dict[tuple[str, str], Any]:
    """Classes and functions of Python's own that are harmless whatever they are called with."""
    import builtins
    from _codecs import encode

    found: dict[tuple[str, str], Any] = {}
    data = "set frozenset list tuple dict bytearray complex slice range object int float bool str bytes".split()
    for module in ("builtins", "__builtin__"):
        found |= {(module, name): getattr(builtins, name) for name in data}
    for owner, names in (
        (collections, "OrderedDict Counter deque defaultdict"),
        (datetime, "datetime date time timedelta"),
        (pathlib, "PurePosixPath PureWindowsPath PosixPath Path"),
        (typing, "OrderedDict Any"),
        (argparse, "Namespace"),
    ):
        found |= {(owner.__name__, name): getattr(owner, name) for name in names.split()}
    found["_codecs", "encode"] = _noting(encode, "_codecs", "encode")
    for module in ("copyreg", "copy_reg"):
        found[module, "_reconstructor"] = _noting(copyreg._reconstructor, module, "_reconstructor")  # type: ignore[attr-defined]
    return found


_REAL = _real()


def fingerprint() -> dict[str, Any]:
    """What a program could have changed for all that run after it in the same process."""
    state: dict[str, Any] = {}
    for (module, name), value in _REAL.items():
        state[f"{module}.{name}"] = dict(vars(value)) if hasattr(value, "__dict__") else None
        state[f"{module}.{name}()"] = getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)
    for table in ("dispatch_table", "_extension_registry", "_inverted_registry"):
        state[f"copyreg.{table}"] = dict(getattr(copyreg, table))
    return state


def look(value: Any) -> Any:
    """An unpickled value as :mod:`fuzz.canonical` wants it."""
    if isinstance(value, Kind):
        return Imported(*value.named)
    if isinstance(value, StandIn):
        return Object(
            type(value) if value.callee is None else value.callee,
            value.made_with,
            value.states,
            value.set_pairs,
            value.added,
        )
    match value:
        case dict():
            return Mapping(value.items())
        case set() | frozenset():
            return Collection(value, isinstance(value, frozenset))
        case bytearray():
            return bytes(value)
        case Given():
            return Loaded(value.pid)
    return value
