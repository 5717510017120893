"""What the names of plain Python data may be called with, and what state may be given to what they made."""

from __future__ import annotations

import re

from modelhub.pickles import Blob, Call, Dict, Global, Value
from modelhub.pickles.declaration import is_count
from modelhub.scan.values import ORDERED_DICT, arguments, is_bytes, is_call_of, is_plain_tree

_FACTORIES = frozenset(
    """int long float bool complex str unicode bytes list dict set frozenset tuple OrderedDict Counter deque""".split()
)
_TIMES = (("datetime", "timedelta"), ("datetime", "timezone"))
_FRACTION = re.compile(r"-?[0-9]{1,1000}(?:/[0-9]{1,1000})?")
_ARRAY_TYPES = frozenset("bBuwhHiIlLqQfd")
_ARRAY_FORMATS = range(22)  # CPython, Modules/arraymodule.c, enum machine_format_code


def empty(call: Call) -> str | None:
    """No arguments: ``cls.__new__(cls)``."""
    return None if arguments(call, 0, 0) is not None else "it is called with arguments"


def plain(call: Call) -> str | None:
    """Numbers and text only."""
    args = arguments(call, 0, 16)
    return (
        None if args is not None and all(map(is_plain_tree, args)) else "its arguments are not plain numbers and text"
    )


def moment(call: Call) -> str | None:
    """Numbers, text and bytes, and among them a span of time or a time zone: ``timezone(timedelta(0, 3600))``."""
    args = arguments(call, 0, 16)
    if args is not None and all(is_plain_tree(arg) or is_call_of(arg, *_TIMES) for arg in args):
        return None
    return "its arguments are not plain numbers and text"


def none_type(call: Call) -> str | None:
    """``type(None)``; ``type`` itself makes classes of what it is given."""
    if call.opcode == "REDUCE" and arguments(call, 1, 1) == (None,):
        return None
    return "it is not the spelling of the type of None"


def mapping(call: Call) -> str | None:
    """Nothing, a dict, or a list of pairs."""
    args = arguments(call, 0, 1)
    if args is None:
        return "its arguments are not those of a dict"
    if not args or type(args[0]) is Dict or is_call_of(args[0], *ORDERED_DICT):
        return None
    if type(args[0]) in (list, tuple) and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in args[0]):
        return None
    return "its argument is not a dict or a list of pairs"


def default_mapping(call: Call) -> str | None:
    """A factory that makes an empty value, and nothing or a dict."""
    args = arguments(call, 0, 2)
    if args is None:
        return "its arguments are not those of a defaultdict"
    if args and args[0] is not None:
        factory = args[0]
        known = (
            type(factory) is Global
            and factory.module in ("builtins", "__builtin__", "collections")
            and factory.name in _FACTORIES
        )
        if not known:
            return "its factory, which is called for each missing key, is not the type of an empty value"
    if len(args) == 2 and type(args[1]) is not Dict:
        return "its second argument is not a dict"
    return None


def sequence(call: Call) -> str | None:
    """Nothing, or one list or tuple (torch.Size, set, frozenset, list, tuple; deque's length limit after it)."""
    args = arguments(call, 0, 2)
    if args is None:
        return "its arguments are not those of a sequence"
    if args and type(args[0]) not in (list, tuple):
        return "its argument is not a list or tuple"
    if len(args) == 2 and not (args[1] is None or is_count(args[1])):
        return "its second argument is not a length"
    return None


def bytes_(call: Call) -> str | None:
    """Bytes, or text and the name of a single-byte encoding."""
    args = arguments(call, 0, 2)
    if args is not None:
        if not args or (len(args) == 1 and is_bytes(args[0]) and type(args[0]) is not str):
            return None
        if len(args) == 2 and type(args[0]) in (str, Blob) and args[1] in ("latin-1", "latin1"):
            return None
    return "its arguments are not bytes"


def reconstructed(call: Call) -> str | None:
    """``copyreg._reconstructor(cls, object, None)``: ``object.__new__(cls)``; or of a kind of dict, with its items."""
    args = arguments(call, 3, 3)
    if args is not None and type(args[0]) is Global and type(args[1]) is Global:
        _, base, given = args
        wanted = (base.name == "object" and given is None) or (base.name == "dict" and type(given) is Dict)
        if wanted and base.module in ("builtins", "__builtin__"):
            return None
    return "it is not the spelling of a new plain object"


def fraction(call: Call) -> str | None:
    """``Fraction('1/3')`` or ``Fraction(1, 3)``; a text with an exponent would be a number of any length."""
    args = arguments(call, 1, 2)
    if args is not None and all(type(arg) is int for arg in args):
        return None
    if args is not None and len(args) == 1 and type(args[0]) is str and _FRACTION.fullmatch(args[0]):
        return None
    return "it is not the spelling of a fraction"


def array(call: Call) -> str | None:
    """``array('d', [1.0])``, or ``_array_reconstructor(array, 'd', 16, bytes)`` as protocol 3 and later have it."""
    args = arguments(call, 2, 4)
    if args is not None and len(args) == 4 and type(args[0]) is Global and args[0].qualified == "array.array":
        _, letter, form, data = args
        if type(letter) is str and letter in _ARRAY_TYPES and type(form) is int and form in _ARRAY_FORMATS:
            return None if is_bytes(data) else "its elements are not bytes"
    elif args is not None and len(args) == 2 and type(call.callee) is Global and call.callee.name == "array":
        letter, given = args
        if type(letter) is str and letter in _ARRAY_TYPES and type(given) is list and is_plain_tree(given, 1):
            return None
    return "it is not the spelling of an array"


def pairs(call: Call) -> str | None:
    """Any number of pairs, each a name and a value: what addict's ``__getnewargs__`` writes, and nobody reads."""
    args = arguments(call, 0, 1 << 20)
    if args is not None and all(type(pair) is tuple and len(pair) == 2 for pair in args):
        return None
    return "its arguments are not pairs"


def itself(state: Value, target: Call) -> str | None:
    """The object's own items once more: addict's ``__getstate__``."""
    return None if state is target else "its state is not its own items"
