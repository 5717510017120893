"""What kind of value an argument is: the questions that contracts ask."""

from __future__ import annotations

from modelhub.pickles import Blob, Call, Dict, Global, Value
from modelhub.pickles.declaration import is_count
from modelhub.pickles.values import PLAIN

ORDERED_DICT = (("collections", "OrderedDict"), ("typing", "OrderedDict"))
_BYTES = (("builtins", "bytes"), ("__builtin__", "bytes"))
_INERT = frozenset({"__immutable__", "__deprecated_keys__", "__renamed_keys__", "__new_allowed__"})
"""Names that look like Python's own, and are those of yacs 0.1.8 (``CfgNode``)."""


def is_plain(value: Value) -> bool:
    """A value without parts that could be called: a number, text, bytes (however spelled), or ``None``."""
    return value is None or value is PLAIN or type(value) in (bool, int, float) or is_bytes(value)


def is_plain_tree(value: Value, depth: int = 4) -> bool:
    """Plain values in tuples and lists, nested no deeper than *depth*."""
    if type(value) in (tuple, list):
        return depth > 0 and all(is_plain_tree(part, depth - 1) for part in value)
    return is_plain(value)


def is_call_of(value: Value, *names: tuple[str, str]) -> bool:
    """Whether *value* is what a call of one of *names* (pairs of module and name) gave."""
    return type(value) is Call and type(value.callee) is Global and (value.callee.module, value.callee.name) in names


def is_bytes(value: Value) -> bool:
    """Bytes, or as protocol 2 spells them: ``_codecs.encode(text, 'latin1')``, ``bytes()``; or Python 2's text."""
    return type(value) in (bytes, str, Blob) or is_call_of(value, ("_codecs", "encode"), *_BYTES)


def length_of(value: Value) -> int | None:
    """How many bytes *value*, one of :func:`is_bytes`, is; ``None`` when only decoding it would tell."""
    if type(value) in (bytes, str):
        return len(value)
    if type(value) is Blob:
        return None if value.kind == "str" else value.nbytes
    if is_call_of(value, *_BYTES):
        return 0
    text = value.args[0] if type(value) is Call and type(value.args) is tuple and value.args else None
    return len(text) if type(text) is str else None


def most_of(value: Value) -> int:
    """How many bytes *value*, one of :func:`is_bytes`, is at most: no character of text takes less than one."""
    length = length_of(value)
    if length is not None:
        return length
    text = value.args[0] if type(value) is Call and type(value.args) is tuple and value.args else value
    return text.nbytes if type(text) is Blob else 0


def is_shape(value: Value) -> bool:
    """A tuple (or ``torch.Size``) of counts."""
    return counts_of(value) is not None


def shape_of(value: Value) -> tuple[Value, ...] | None:
    """The tuple that *value* is, itself or as a ``torch.Size``, whatever is in it; ``None`` when it is none."""
    if is_call_of(value, ("torch", "Size")) and type(value.args) is tuple and value.args:
        value = tuple(value.args[0]) if type(value.args[0]) is list else value.args[0]
    return value if type(value) is tuple else None


def counts_of(value: Value) -> tuple[int, ...] | None:
    """The numbers of a shape or of strides, ``None`` when it is none."""
    shape = shape_of(value)
    return shape if shape is not None and len(shape) <= 64 and all(map(is_count, shape)) else None


def product(counts: tuple[int, ...]) -> int:
    """Elements of a tensor of that shape."""
    total = 1
    for count in counts:
        total *= count
    return total


def is_no_hooks(value: Value) -> bool:
    """The empty ``OrderedDict()`` (or ``{}``, or ``None``) that stands for "no backward hooks"."""
    if value is None:
        return True
    if type(value) is Dict:
        return not value.pairs
    return is_call_of(value, *ORDERED_DICT) and value.args == () and not value.pairs and not value.items


def is_set_one_by_one(value: Value) -> bool:
    """A dict, or an ``OrderedDict()`` made empty: all its items are in ``pairs``, none in the call's arguments."""
    if type(value) is Dict:
        return True
    return is_call_of(value, *ORDERED_DICT) and value.args == () and not value.states


def is_special(name: str) -> bool:
    """Whether an attribute of that *name* may be one that Python itself calls or obeys."""
    return name.startswith("__") and name not in _INERT


def is_flags(value: Value) -> bool:
    """A dict of names to truth values."""
    return type(value) is Dict and all(type(k) is str and type(v) is bool for k, v in value.pairs)


def has_keywords(call: Call) -> bool:
    """Whether the call has keyword arguments."""
    return call.kwargs is not None and not (type(call.kwargs) is Dict and not call.kwargs.pairs)


def arguments(call: Call, least: int, most: int) -> tuple[Value, ...] | None:
    """The positional arguments of *call* when there are *least* to *most* of them and no others."""
    args = call.args
    return args if type(args) is tuple and least <= len(args) <= most and not has_keywords(call) else None
