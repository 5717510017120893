"""What the abstract pickle machine puts on its stack.

``None``, ``bool``, ``int``, ``float``, ``str`` and ``bytes`` stand for themselves; a Python ``list`` or ``tuple`` for a
list or tuple of such values. Everything else that a pickle can make is one of the classes below: inert records that
are compared by identity. Nothing here is ever called, imported or hashed by content.
"""

from __future__ import annotations

from typing import Any, Literal

Value = Any
"""``None | bool | int | float | str | bytes | list | tuple | Dict | SetOf | Global | Call | Persistent | Blob | Plain |
Unknown``."""

CallOpcode = Literal["REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"]
LiteralKind = Literal["str", "bytes", "bytearray"]


class Global:
    """A class or function that loading would import: ``module`` and ``name`` as the file spells them.

    ``opcode`` is GLOBAL, STACK_GLOBAL or INST; ``literal`` is false when a STACK_GLOBAL's operands were not string
    literals, in which case ``module`` and ``name`` say only what could be told.
    """

    __slots__ = ("literal", "module", "name", "offset", "opcode")

    def __init__(self, module: str, name: str, offset: int, opcode: str, literal: bool = True) -> None:
        self.module = module
        self.name = name
        self.offset = offset
        self.opcode = opcode
        self.literal = literal

    @property
    def qualified(self) -> str:
        """``module.name``"""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return self.qualified


class Dict:
    """A dict made by the pickle: its items as ``(key, value)`` pairs in the order they were set."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Value, Value]] | tuple[tuple[Value, Value], ...] = ()


class SetOf:
    """A set or frozenset made by an opcode: its members in the order they were added."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Value], frozen: bool = False) -> None:
        self.items = items
        self.frozen = frozen


class Call:
    """What calling ``callee`` with ``args`` would give, and what was then done to it.

    ``states`` are the arguments of BUILD, ``pairs`` of SETITEM(S), ``items`` of APPEND(S) and ADDITEMS, in order.
    """

    __slots__ = ("args", "callee", "items", "kwargs", "offset", "opcode", "pairs", "states")

    def __init__(self, callee: Value, args: Value, kwargs: Value, offset: int, opcode: CallOpcode) -> None:
        self.callee = callee
        self.args = args
        self.kwargs = kwargs
        self.offset = offset
        self.opcode = opcode
        self.states: tuple[Value, ...] = ()
        self.pairs: list[tuple[Value, Value]] | tuple[()] = ()
        self.items: list[Value] | tuple[()] = ()


class Persistent:
    """An object the loader would supply for persistent id ``pid`` (torch: a tensor storage).

    ``text`` says whether the id is written as text (PERSID), ``read`` whether ``declaration`` has been read of it
    (see :func:`modelhub.pickles.rebuild.declaration_of`).
    """

    __slots__ = ("declaration", "offset", "pid", "read", "text")

    def __init__(self, pid: Value, offset: int, text: bool) -> None:
        self.pid = pid
        self.offset = offset
        self.text = text
        self.read = False
        self.declaration: Any = None


class Blob:
    """A literal too long to keep: its bytes lie at ``start`` (absolute in the source) for ``nbytes``."""

    __slots__ = ("kind", "nbytes", "start")

    def __init__(self, kind: LiteralKind, start: int, nbytes: int) -> None:
        self.kind = kind
        self.start = start
        self.nbytes = nbytes


class Unknown:
    """A value that could not be told; the trace has an anomaly that says why."""

    __slots__ = ()


class Plain:
    """A run of numbers, text, bytes and ``None`` in a dict or list of a very long pickle: understood, but not kept."""

    __slots__ = ()


PLAIN = Plain()
"""The one :class:`Plain`; in a dict it stands for keys and values alike."""
