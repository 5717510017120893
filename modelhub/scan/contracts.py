"""What an allowed name may be called with, and what state may be given to what it made.

A contract looks at one call, or one state and the object that it is given to, and says what is wrong with it
(``None``: nothing). It need only look at its own arguments: every call, import and persistent id inside them is in the
trace too and is judged there. Contracts see the values as they are at the end of the program, so what was changed after
the call is judged as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelhub.pickles import Blob, Call, Global, Persistent, Value, declaration_of
from modelhub.pickles.declaration import is_count
from modelhub.pickles.elements import layout_of
from modelhub.pickles.rebuild import rebuilds_tensor
from modelhub.scan.contracts_data import (
    array,
    bytes_,
    default_mapping,
    empty,
    fraction,
    itself,
    mapping,
    moment,
    none_type,
    pairs,
    plain,
    reconstructed,
    sequence,
)
from modelhub.scan.contracts_numpy import (
    joblib_wrapper,
    numpy_array,
    numpy_array_state,
    numpy_buffer,
    numpy_dtype,
    numpy_dtype_state,
    numpy_scalar,
)
from modelhub.scan.values import (
    arguments,
    is_call_of,
    is_flags,
    is_no_hooks,
    is_set_one_by_one,
    is_special,
    most_of,
    shape_of,
)
from modelhub.tensors import DTYPE_BY_TORCH, DType

CallContract = Callable[[Call], str | None]
StateContract = Callable[[Value, Call], str | None]

_LAYOUTS = frozenset(
    f"torch.{layout}"
    for layout in ("strided", "jagged", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn")
)
_EXPANSION = 1 << 28  # bytes; a tensor of more than that, and of 16 times its storage, is an attack on memory


def layout(call: Call) -> str | None:
    """``_get_layout('torch.strided')``: one of torch's layouts, looked up by its name."""
    args = arguments(call, 1, 1)
    if args is not None and type(args[0]) is str and args[0] in _LAYOUTS:
        return None
    return "it is not the name of one of torch's layouts"


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


def attributes(state: Value, target: Call) -> str | None:
    """A state of named attributes (or the pair of them and of slots), none of them special to Python."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in parts:
        if part is None:
            continue
        if not is_set_one_by_one(part):
            return "its state is not a dict of attributes"
        if any(type(key) is not str or is_special(key) for key, _ in part.pairs):
            return "its state sets an attribute that is special to Python"
    return None


CALLS: Mapping[str, CallContract] = {
    "array": array,
    "bytes": bytes_,
    "default-mapping": default_mapping,
    "empty": empty,
    "fraction": fraction,
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
    "pairs": pairs,
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
    "itself": itself,
    "joblib-wrapper": joblib_wrapper,
    "numpy-array": numpy_array_state,
    "numpy-dtype": numpy_dtype_state,
}
