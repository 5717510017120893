"""What an allowed name may be called with, and what state may be given to what it made.

A contract looks at one call, or one state, and says what is wrong with it (``None``: nothing). It need only look at
its own arguments: every call, import and persistent id inside them is in the trace too and is judged there. Contracts
see the values as they are at the end of the program, so what was changed after the call is judged as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelhub.pickles import Blob, Call, Dict, Global, Persistent, Value, declaration_of
from modelhub.pickles.rebuild import is_count, rebuilds_tensor

Contract = Callable[[Value], str | None]

_FACTORIES = {"int", "float", "bool", "str", "bytes", "list", "dict", "set", "tuple", "OrderedDict"}
_NUMPY_TYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 f16 c8 c16 c32 O8 M8 m8".split())


def _is_plain(value: Value) -> bool:
    """A value without parts that could be called: a number, text, bytes (however spelled), or ``None``."""
    return value is None or type(value) in (bool, int, float) or _is_bytes(value)


def _is_plain_tree(value: Value, depth: int = 4) -> bool:
    """Plain values in tuples and lists, nested no deeper than *depth*."""
    if type(value) in (tuple, list):
        return depth > 0 and all(_is_plain_tree(part, depth - 1) for part in value)
    return _is_plain(value)


def _is_call_of(value: Value, modules: tuple[str, ...], name: str) -> bool:
    return (
        type(value) is Call
        and type(value.callee) is Global
        and value.callee.module in modules
        and value.callee.name == name
    )


def _is_bytes(value: Value) -> bool:
    """Bytes, or the way protocol 2 spells them: ``_codecs.encode(text, 'latin1')``; or Python 2's text."""
    return type(value) in (bytes, str, Blob) or _is_call_of(value, ("_codecs",), "encode")


def _is_dtype(value: Value) -> bool:
    return _is_call_of(value, ("numpy",), "dtype") or (
        type(value) is Call and type(value.callee) is Global and value.callee.module == "numpy.dtypes"
    )


def _is_no_hooks(value: Value) -> bool:
    """The empty ``OrderedDict()`` (or ``{}``) that stands for "no backward hooks"."""
    if type(value) is Dict:
        return not value.pairs
    return (
        _is_call_of(value, ("collections", "typing"), "OrderedDict")
        and value.args == ()
        and not value.pairs
        and not value.items
    )


def empty(call: Call) -> str | None:
    """No arguments: ``cls.__new__(cls)``."""
    return None if call.args == () and not _kwargs(call) else "it is called with arguments"


def plain(call: Call) -> str | None:
    """Numbers and text only."""
    if type(call.args) is tuple and len(call.args) <= 16 and all(map(_is_plain_tree, call.args)) and not _kwargs(call):
        return None
    return "its arguments are not plain numbers and text"


def mapping(call: Call) -> str | None:
    """Nothing, a dict, or a list of pairs."""
    if type(call.args) is not tuple or len(call.args) > 1 or _kwargs(call):
        return "its arguments are not those of a dict"
    if not call.args or type(call.args[0]) is Dict:
        return None
    given = call.args[0]
    if type(given) in (list, tuple) and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in given):
        return None
    if _is_call_of(given, ("collections", "typing"), "OrderedDict"):
        return None
    return "its argument is not a dict or a list of pairs"


def default_mapping(call: Call) -> str | None:
    """A factory that makes an empty value, and nothing or a dict."""
    if type(call.args) is not tuple or not 0 <= len(call.args) <= 2 or _kwargs(call):
        return "its arguments are not those of a defaultdict"
    if call.args:
        factory = call.args[0]
        known = (
            type(factory) is Global
            and factory.module in ("builtins", "__builtin__", "collections")
            and factory.name in _FACTORIES
        )
        if factory is not None and not known:
            return "its factory is not the type of an empty value"
    if len(call.args) == 2 and type(call.args[1]) is not Dict:
        return "its second argument is not a dict"
    return None


def sequence(call: Call) -> str | None:
    """Nothing, or one list or tuple (torch.Size, set, frozenset, list, tuple; deque's length limit after it)."""
    if type(call.args) is not tuple or len(call.args) > 2 or _kwargs(call):
        return "its arguments are not those of a sequence"
    if call.args and type(call.args[0]) not in (list, tuple):
        return "its argument is not a list or tuple"
    if len(call.args) == 2 and not (call.args[1] is None or is_count(call.args[1])):
        return "its second argument is not a length"
    return None


def bytes_(call: Call) -> str | None:
    """Bytes, or text and the name of a single-byte encoding."""
    args = call.args
    if type(args) is tuple and not _kwargs(call):
        if not args or (len(args) == 1 and _is_bytes(args[0]) and type(args[0]) is not str):
            return None
        if len(args) == 2 and type(args[0]) in (str, Blob) and args[1] in ("latin-1", "latin1"):
            return None
    return "its arguments are not bytes"


def latin1(call: Call) -> str | None:
    """``_codecs.encode(text, 'latin1')``: how protocol 2 spells bytes; any other codec could do other things."""
    args = call.args
    if type(args) is tuple and len(args) == 2 and type(args[0]) in (str, Blob) and args[1] == "latin1":
        return None
    return "it is not the spelling of bytes, encode(text, 'latin1')"


def tensor(call: Call) -> str | None:
    """``_rebuild_tensor*(storage, offset, size, stride[, requires_grad, hooks[, dtype][, metadata]])``."""
    args = call.args
    if type(args) is not tuple or not 4 <= len(args) <= 8 or _kwargs(call):
        return "its arguments are not those of a tensor"
    storage, offset, size, stride = args[:4]
    if type(storage) is not Persistent or declaration_of(storage) is None:
        return "its first argument is not a storage"
    if not is_count(offset) or not _is_shape(size) or not _is_shape(stride):
        return "its offset, size or stride is not made of counts"
    if len(args) > 4 and type(args[4]) is not bool:
        return "its requires_grad is not a truth value"
    if len(args) > 5 and not _is_no_hooks(args[5]):
        return "it has backward hooks"
    rest = args[6:]
    if rest and type(rest[0]) is Global:
        if rest[0].module != "torch":
            return "its element type is not one of torch's"
        rest = rest[1:]
    for metadata in rest:
        if metadata is not None and not _is_flags(metadata):
            return "its metadata is not a dict of flags"
    return None


def parameter(call: Call) -> str | None:
    """``_rebuild_parameter[_with_state](tensor, requires_grad, hooks[, state])`` and ``Parameter(tensor, ...)``."""
    args = call.args
    if type(args) is not tuple or not 1 <= len(args) <= 4 or _kwargs(call):
        return "its arguments are not those of a parameter"
    if type(args[0]) is not Call or rebuilds_tensor(args[0]) is None:
        return "its first argument is not a tensor"
    if len(args) > 1 and type(args[1]) is not bool:
        return "its requires_grad is not a truth value"
    if len(args) > 2 and not _is_no_hooks(args[2]):
        return "it has backward hooks"
    return attributes(args[3]) if len(args) > 3 else None


def tensor_of_type(call: Call) -> str | None:
    """``_rebuild_from_type_v2(function, type, arguments, state)``, which calls *function* with *arguments*."""
    args = call.args
    if type(args) is not tuple or len(args) != 4 or _kwargs(call):
        return "its arguments are not those of a tensor"
    function, kind, arguments, state = args
    if type(function) is not Global or function.module != "torch._utils":
        return "it calls something other than a tensor's rebuild function"
    inner = Call(function, arguments, None, call.offset, "REDUCE")
    if rebuilds_tensor(inner) is None:
        return "it calls something other than a tensor's rebuild function"
    if type(kind) is not Global or (kind.module, kind.name) not in (
        ("torch", "Tensor"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.nn.parameter", "Buffer"),
    ):
        return "its type is not a tensor's"
    wrong = tensor(inner) if function.name.startswith("_rebuild_tensor") else parameter(inner)
    return wrong or attributes(state)


def numpy_dtype(call: Call) -> str | None:
    """``numpy.dtype('f8', False, True)``."""
    args = call.args
    if type(args) is tuple and 1 <= len(args) <= 3 and not _kwargs(call):
        name, flags = args[0], args[1:]
        known = type(name) is str and (name in _NUMPY_TYPES or (name[:1] in "SUV" and name[1:].isdecimal()))
        if known and all(type(flag) in (bool, int) for flag in flags):
            return None
    return "it is not the spelling of a numpy element type"


def numpy_scalar(call: Call) -> str | None:
    """``scalar(dtype, bytes)``."""
    args = call.args
    if type(args) is tuple and len(args) == 2 and _is_dtype(args[0]) and _is_bytes(args[1]) and not _kwargs(call):
        return None
    return "it is not the spelling of a numpy scalar"


def numpy_array(call: Call) -> str | None:
    """``_reconstruct(ndarray, (0,), b'b')``."""
    args = call.args
    if type(args) is tuple and len(args) == 3 and not _kwargs(call):
        kind, shape, letter = args
        if type(kind) is Global and kind.qualified == "numpy.ndarray" and _is_shape(shape) and _is_bytes(letter):
            return None
    return "it is not the spelling of a numpy array"


def numpy_buffer(call: Call) -> str | None:
    """``_frombuffer(bytes, dtype, shape, order[, axes])``, protocol 5's spelling of an array."""
    args = call.args
    if type(args) is tuple and len(args) in (4, 5) and not _kwargs(call):
        data, dtype, shape, order = args[:4]
        axes = args[4] if len(args) == 5 else None
        if _is_bytes(data) and _is_dtype(dtype) and _is_shape(shape) and order in ("C", "F", "K"):
            return None if axes is None or _is_shape(axes) else "it is not the spelling of a numpy array"
    return "it is not the spelling of a numpy array"


def reconstructed(call: Call) -> str | None:
    """``copyreg._reconstructor(cls, object, None)``: ``object.__new__(cls)``."""
    args = call.args
    if type(args) is tuple and len(args) == 3 and type(args[0]) is Global and args[2] is None and not _kwargs(call):
        base = args[1]
        if type(base) is Global and base.module in ("builtins", "__builtin__") and base.name == "object":
            return None
    return "it is not the spelling of a new plain object"


def attributes(state: Value) -> str | None:
    """A state of named attributes (or the pair of them and of slots), none of them special to Python."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in parts:
        if part is None:
            continue
        pairs = part.pairs if type(part) is Dict or _is_call_of(part, ("collections",), "OrderedDict") else None
        if pairs is None:
            return "its state is not a dict of attributes"
        for key, _ in pairs:
            if type(key) is not str or (key.startswith("__") and key.endswith("__")):
                return "its state sets an attribute that is special to Python"
    return None


def plain_state(state: Value) -> str | None:
    """A state of numbers and text in tuples."""
    return None if _is_plain_tree(state) else "its state is not made of plain numbers and text"


def numpy_array_state(state: Value) -> str | None:
    """``(1, shape, dtype, fortran order, bytes or list of objects)``."""
    if type(state) is tuple and len(state) == 5:
        version, shape, dtype, fortran, data = state
        if (
            version == 1
            and _is_shape(shape)
            and _is_dtype(dtype)
            and type(fortran) in (bool, int)
            and (_is_bytes(data) or type(data) is list)
        ):
            return None
    return "its state is not that of a numpy array"


def _is_shape(value: Value) -> bool:
    """A tuple (or ``torch.Size``) of counts."""
    if _is_call_of(value, ("torch",), "Size"):
        value = value.args[0] if value.args else None
    return type(value) is tuple and len(value) <= 64 and all(map(is_count, value))


def _is_flags(value: Value) -> bool:
    return type(value) is Dict and all(type(k) is str and type(v) is bool for k, v in value.pairs)


def _kwargs(call: Call) -> bool:
    """Whether the call has keyword arguments."""
    return call.kwargs is not None and not (type(call.kwargs) is Dict and not call.kwargs.pairs)


CALLS: Mapping[str, Contract] = {
    "bytes": bytes_,
    "default-mapping": default_mapping,
    "empty": empty,
    "latin1": latin1,
    "mapping": mapping,
    "numpy-array": numpy_array,
    "numpy-buffer": numpy_buffer,
    "numpy-dtype": numpy_dtype,
    "numpy-scalar": numpy_scalar,
    "parameter": parameter,
    "plain": plain,
    "reconstructed": reconstructed,
    "sequence": sequence,
    "tensor": tensor,
    "tensor-of-type": tensor_of_type,
}
STATES: Mapping[str, Contract] = {
    "attributes": attributes,
    "numpy-array": numpy_array_state,
    "plain": plain_state,
}
