"""Values as a pickle describes them, before they are spelled in opcodes.

Plain values, tuples and lists stand for themselves; everything else is one of these nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

Node = Any


@dataclass(frozen=True, slots=True)
class Name:
    """An import by its literal name."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class ComputedName:
    """STACK_GLOBAL with whatever *module* and *name* come to."""

    module: Node
    name: Node


@dataclass(frozen=True, slots=True)
class Extension:
    """An import by extension code."""

    code: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """A dict."""

    pairs: tuple[tuple[Node, Node], ...] = ()


@dataclass(frozen=True, slots=True)
class Members:
    """A set or frozenset."""

    items: tuple[Node, ...] = ()
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A call; *args* is a tuple for the usual ones, *how* an opcode's name or empty for any that fits."""

    callee: Node
    args: Node = ()
    kwargs: Node = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class After:
    """*target* after *steps*: ``("build", state)``, ``("pairs", pairs)``, ``("items", items)``, ``("adds", items)``."""

    target: Node
    steps: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the loader gives for a persistent id; written as a text opcode if *text*."""

    pid: Node
    text: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """Any value that the memo already knows."""


@dataclass(frozen=True, slots=True)
class Twice:
    """*value*, duplicated by DUP, in a tuple."""

    value: Node


@dataclass(frozen=True, slots=True)
class Buffer:
    """An out-of-band buffer."""

    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """A bytearray, as protocol 5 writes it."""

    data: bytes


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below *node*."""
    match node:
        case tuple() | list():
            return tuple(node)
        case ComputedName(module, name):
            return (module, name)
        case Pairs(pairs):
            return tuple(part for pair in pairs for part in pair)
        case Members(items):
            return items
        case Made(callee, args, kwargs):
            return (callee, args) if kwargs is None else (callee, args, kwargs)
        case After(target, steps):
            return (target, *(part for _, part in steps))
        case Asked(pid):
            return (pid,)
        case Twice(value):
            return (value,)
    return ()


def rebuilt(node: Node, below: tuple[Node, ...]) -> Node:
    """*node* with *below* in the place of its :func:`children`."""
    match node:
        case tuple():
            return below
        case list():
            return list(below)
        case ComputedName():
            return ComputedName(*below)
        case Pairs():
            return Pairs(tuple(zip(below[::2], below[1::2], strict=True)))
        case Members():
            return replace(node, items=below)
        case Made():
            return replace(node, callee=below[0], args=below[1], kwargs=below[2] if len(below) > 2 else None)
        case After(_, steps):
            return After(below[0], tuple((kind, part) for (kind, _), part in zip(steps, below[1:], strict=True)))
        case Asked():
            return replace(node, pid=below[0])
        case Twice():
            return Twice(below[0])
    return node


def size(node: Node) -> int:
    """Nodes in the tree."""
    return 1 + sum(map(size, children(node)))


def with_replaced(node: Node, index: int, new: Node) -> Node:
    """*node* with the node number *index* of its tree, counted from the top, replaced by *new*."""
    if index == 0:
        return new
    index -= 1
    below = list(children(node))
    for at, child in enumerate(below):
        count = size(child)
        if index < count:
            below[at] = with_replaced(child, index, new)
            break
        index -= count
    return rebuilt(node, tuple(below))


def pick(rng: Random, node: Node) -> Node:
    """Any node of the tree."""
    while True:
        below = children(node)
        if not below or rng.random() < 0.3:
            return node
        node = rng.choice(below)
