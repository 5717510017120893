"""What an allowed name may be called with, and what state may be given to what it made.

A contract looks at one call, or one state and the object that it is given to, and says what is wrong with it
(``None``: nothing). It need only look at its own arguments: every call, import and persistent id inside them is in the
trace too and is judged there. Contracts see the values as they are at the end of the program, so what was changed after
the call is judged as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelhub.pickles import Blob, Call, Dict, Global, Persistent, Value, declaration_of
from modelhub.pickles.declaration import is_count
from modelhub.pickles.elements import layout_of
from modelhub.pickles.rebuild import rebuilds_tensor
from modelhub.scan.contracts_numpy import (
    numpy_array,
    numpy_array_state,
    numpy_buffer,
    numpy_dtype,
    numpy_dtype_state,
    numpy_scalar,
)
from modelhub.scan.values import (
    ORDERED_DICT,
    arguments,
    is_bytes,
    is_call_of,
    is_flags,
    is_no_hooks,
    is_plain_tree,
    is_set_one_by_one,
    most_of,
    shape_of,
)
from modelhub.tensors import DTYPE_BY_TORCH, DType

CallContract = Callable[[Call], str | None]
StateContract = Callable[[Value, Call], str | None]

_FACTORIES = frozenset(
    """int long float bool complex str unicode bytes list dict set frozenset tuple OrderedDict Counter deque""".split()
)
_LAYOUTS = frozenset(
    f"torch.{layout}"
    for layout in ("strided", "jagged", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn")
)
_TIMES = (("datetime", "timedelta"), ("datetime", "timezone"))
_EXPANSION = 1 << 28  # bytes; a tensor of more than that, and of 16 times its storage, is an attack on memory


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


def layout(call: Call) -> str | None:
    """``_get_layout('torch.strided')``: one of torch's layouts, looked up by its name."""
    args = arguments(call, 1, 1)
    if args is not None and type(args[0]) is str and args[0] in _LAYOUTS:
        return None
    return "it is not the name of one of torch's layouts"


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


def tagged(call: Call) -> str | None:
    """A value, and the name of its type: ``restore_type_tag``, which gives back the value (torch 2.13)."""
    args = arguments(call, 2, 2)
    return None if args is not None and type(args[1]) is str else "it is not a value and the name of its type"


def latin1(call: Call) -> str | None:
    """``_codecs.encode(text, 'latin1')``: how protocol 2 spells bytes; any other codec could do other things."""
    args = arguments(call, 2, 2)
    if args is not None and type(args[0]) in (str, Blob) and type(args[1]) is str and args[1] == "latin1":
        return None
    return "it is not the spelling of bytes, encode(text, 'latin1')"


def nested(call: Call) -> str | None:
    """``_load_from_bytes(bytes)``: torch loads them as a file, so they must be there to be read as one."""
    args = arguments(call, 1, 1)
    if args is not None and type(call.callee) is Global and call.opcode == "REDUCE" and is_literal_bytes(args[0]):
        return None
    return "the bytes that torch would load as a file of their own are not written out"


def is_literal_bytes(value: Value) -> bool:
    """Bytes that stand in the pickle as they are, or as protocol 2 spells them."""
    if type(value) is bytes or (type(value) is Blob and value.kind != "str"):
        return True
    return is_call_of(value, ("_codecs", "encode")) and latin1(value) is None


def tensor(call: Call) -> str | None:
    """``_rebuild_tensor*(storage, offset, size, stride[, requires_grad, hooks[, dtype][, metadata]])``.

    Its elements must lie in the storage: torch makes a storage larger that a tensor reaches out of, however far
    (torch 2.13, ``set_``). What is in the state dict is checked against the file too; this sees every tensor.
    """
    args = arguments(call, 4, 8)
    if args is None:
        return "its arguments are not those of a tensor"
    storage, offset = args[:2]
    size, stride = shape_of(args[2]), shape_of(args[3])
    layout = layout_of(size, stride) if is_count(offset) and size is not None and stride is not None else None
    if layout is None:
        return "its offset, size or stride is not made of counts"
    rest = args[6:]
    dtype = None
    if rest and type(rest[0]) is Global:
        dtype = DTYPE_BY_TORCH.get(rest[0].name)
        if rest[0].module != "torch" or dtype is None:
            return "its element type is not one of torch's"
        rest = rest[1:]
    room = _room(storage, dtype)
    if room is None:
        return "its first argument is not a storage"
    if offset + layout.reach > room[0]:
        return "it reaches out of its storage"
    if layout.numel * room[1] > max(_EXPANSION, 16 * room[0] * room[1]):
        return "it expands a few bytes to far more"
    if len(args) > 4 and type(args[4]) is not bool:
        return "its requires_grad is not a truth value"
    if len(args) > 5 and not is_no_hooks(args[5]):
        return "it has backward hooks"
    if not all(metadata is None or is_flags(metadata) for metadata in rest):
        return "its metadata is not a dict of flags"
    return None


def _room(storage: Value, dtype: DType | None) -> tuple[int, int] | None:
    """How many elements *storage* has at most, and the bytes of one; ``None`` when it is not a storage.

    One that is loaded from bytes in the pickle has at most as many elements as there are bytes.
    """
    if is_call_of(storage, ("torch.storage", "_load_from_bytes")):
        args = storage.args
        return (most_of(args[0]) if type(args) is tuple and args else 0), 1
    declared = declaration_of(storage) if type(storage) is Persistent else None
    if declared is None:
        return None
    dtype = dtype or declared.dtype
    width = max(1, dtype.bits // 8) if dtype else 1
    if declared.view is not None:
        return declared.view[2], width
    return declared.nbytes // width, width


def parameter(call: Call) -> str | None:
    """``_rebuild_parameter[_with_state](tensor, requires_grad, hooks[, state])`` and ``Parameter(tensor, ...)``."""
    args = arguments(call, 1, 4)
    if args is None:
        return "its arguments are not those of a parameter"
    if type(args[0]) is not Call or rebuilds_tensor(args[0]) is None:
        return "its first argument is not a tensor"
    if len(args) > 1 and type(args[1]) is not bool:
        return "its requires_grad is not a truth value"
    if len(args) > 2 and not is_no_hooks(args[2]):
        return "it has backward hooks"
    return attributes(args[3], call) if len(args) > 3 else None


def tensor_of_type(call: Call) -> str | None:
    """``_rebuild_from_type_v2(function, type, arguments, state)``, which calls *function* with *arguments*."""
    args = arguments(call, 4, 4)
    if args is None:
        return "its arguments are not those of a tensor"
    function, kind, given, state = args
    inner = Call(function, given, None, call.offset, "REDUCE")
    if type(function) is not Global or function.module != "torch._utils" or rebuilds_tensor(inner) is None:
        return "it calls something other than a tensor's rebuild function"
    if type(kind) is not Global or (kind.module, kind.name) not in (
        ("torch", "Tensor"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.nn.parameter", "Buffer"),
    ):
        return "its type is not a tensor's"
    wrong = tensor(inner) if function.name.startswith("_rebuild_tensor") else parameter(inner)
    return wrong or attributes(state, call)


def reconstructed(call: Call) -> str | None:
    """``copyreg._reconstructor(cls, object, None)``: ``object.__new__(cls)``."""
    args = arguments(call, 3, 3)
    if args is not None and type(args[0]) is Global and args[2] is None:
        base = args[1]
        if type(base) is Global and base.module in ("builtins", "__builtin__") and base.name == "object":
            return None
    return "it is not the spelling of a new plain object"


def attributes(state: Value, target: Call) -> str | None:
    """A state of named attributes (or the pair of them and of slots), none of them special to Python."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in parts:
        if part is None:
            continue
        if not is_set_one_by_one(part):
            return "its state is not a dict of attributes"
        if any(type(key) is not str or key.startswith("__") for key, _ in part.pairs):
            return "its state sets an attribute that is special to Python"
    return None


CALLS: Mapping[str, CallContract] = {
    "bytes": bytes_,
    "default-mapping": default_mapping,
    "empty": empty,
    "latin1": latin1,
    "layout": layout,
    "mapping": mapping,
    "moment": moment,
    "nested": nested,
    "none-type": none_type,
    "numpy-array": numpy_array,
    "numpy-buffer": numpy_buffer,
    "numpy-dtype": numpy_dtype,
    "numpy-scalar": numpy_scalar,
    "parameter": parameter,
    "plain": plain,
    "reconstructed": reconstructed,
    "sequence": sequence,
    "tagged": tagged,
    "tensor": tensor,
    "tensor-of-type": tensor_of_type,
}
STATES: Mapping[str, StateContract] = {
    "attributes": attributes,
    "numpy-array": numpy_array_state,
    "numpy-dtype": numpy_dtype_state,
}
