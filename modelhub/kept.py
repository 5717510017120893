"""What a function has answered, kept for when it is asked the same again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(dict[K, V]):
    """The answers of *make*, by what it was asked; ``kept[key]`` asks it but once, where the key *is_usual*: whoever
    writes a file must not decide how much of it is remembered.

    They are forgotten when they are *most*, all at once: to remember which of them was asked last, as
    :func:`functools.lru_cache` does, costs more than the names of thousands of tensors are worth.

    >>> squares = Kept(lambda number: number * number, 100)
    >>> squares[3], len(squares)
    (9, 1)
    """

    __slots__ = ("_is_usual", "_make", "_most")

    def __init__(self, make: Callable[[K], V], most: int, is_usual: Callable[[K], bool] = lambda _: True) -> None:
        self._make = make
        self._most = most
        self._is_usual = is_usual

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        if self._is_usual(key):
            if len(self) >= self._most:
                self.clear()
            self[key] = value
        return value
